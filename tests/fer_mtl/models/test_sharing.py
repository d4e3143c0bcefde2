import inspect

import pytest
import torch
import torch.nn.functional as F

from fer_mtl.models.sharing import SHARING, make_sharing

C = 8
#: Parameters of a pair for C channels a side.
COUNTS = {
    "convflu": 12 * C**2,
    "none": 0,
    "hard": 0,
    "cross_stitch": 4 * C,
    "sluice": 16,
    "nddr": 2 * (2 * C**2 + 2 * C),
    "mtan": 2 * (3 * C**2 + 4 * C),
    "pad": 2 * 2 * 9 * C**2,
}


def build(name):
    torch.manual_seed(0)
    return make_sharing(name, C).double()


@pytest.fixture
def features():
    torch.manual_seed(1)
    return [torch.randn(3, C, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def bn(x):
    return F.batch_norm(x, None, None, training=True)


def plain(name, share, x, y):
    """The formula of x' (of y' with the arguments swapped by the caller)."""
    state = {key: value for key, value in share.state_dict().items()}
    both = torch.cat([x, y], dim=1)
    match name:
        case "none" | "hard":
            return x
        case "convflu":
            w_r, w, u, w_z = (state[f"pair.x_from_y.{part}.weight"] for part in ("W_r", "W", "U", "W_z"))
            r = torch.sigmoid(F.conv2d(both, w_r))
            h = torch.tanh(F.conv2d(r * y, w) + F.conv2d(x, u))
            z = torch.sigmoid(F.conv2d(both, w_z))
            return (1 - z) * x + z * h
        case "cross_stitch":
            return 0.9 * x + 0.1 * y
        case "sluice":
            parts = [*x.split(C // 2, dim=1), *y.split(C // 2, dim=1)]
            mixed = [0.9 * p + 0.1 / 3 * sum(o for o in parts if o is not p) for p in parts]
            return torch.cat(mixed[:2], dim=1)
        case "nddr":
            return bn(0.9 * x + 0.1 * y).relu()
        case "mtan":
            first, second = state["x_attention.0.weight"], state["x_attention.2.weight"]
            other_first = torch.cat([y, x], dim=1)
            return torch.sigmoid(bn(F.conv2d(bn(F.conv2d(other_first, first)).relu(), second))) * x
        case "pad":
            message, gate = (F.conv2d(y, w, padding=1) for w in state["x_from_y.weight"].split(C))
            return x + torch.sigmoid(gate) * message


@pytest.mark.parametrize("name", SHARING)
def test_each_way_is_its_formula(name, features):
    share = build(name)
    x, y, gates = share(*features)
    assert gates is None
    torch.testing.assert_close(x, plain(name, share, *features))
    assert y.shape == features[1].shape


@pytest.mark.parametrize("name", [name for name in SHARING if name != "hard"])
def test_both_directions_are_simultaneous(name, features):
    """Swapping the branches together with their weights swaps the results."""
    share = build(name)
    swapped = build(name)
    pairs = (("x_from", "y_from"), ("x_attention", "y_attention"))
    names = dict([*pairs, *(pair[::-1] for pair in pairs)])

    def swap(key):
        for old, new in names.items():
            if old in key:
                return key.replace(old, new).replace("_y.", "_#.").replace("_x.", "_y.").replace("_#.", "_x.")
        return key

    state = {swap(key): value for key, value in share.state_dict().items()}
    if name == "nddr":  # its input order is fixed: the halves change places
        for key, value in state.items():
            if key.endswith("0.weight"):
                state[key] = torch.cat(value.chunk(2, dim=1)[::-1], dim=1)
    swapped.load_state_dict(state)
    x, y, _ = share(*features)
    y2, x2, _ = swapped(*reversed(features))
    torch.testing.assert_close((x, y), (x2, y2))


@pytest.mark.parametrize("name", SHARING)
def test_gradients_cross_only_where_features_do(name, features):
    share = build(name)
    for own in (0, 1):
        result = share(*features)[own]
        weighted = (
            result * torch.randn_like(result)
        ).sum()  # batch norm makes the gradient of a plain sum zero
        grads = torch.autograd.grad(weighted, features, allow_unused=True)
        own_grad, other_grad = grads[own], grads[1 - own]
        if name == "hard":  # y is ignored
            assert (own_grad is None, other_grad is None) == ((False, True) if own == 0 else (True, False))
        else:
            assert own_grad.abs().sum() > 0
            assert (other_grad is None) == (name == "none")
            if name != "none":
                assert other_grad.abs().sum() > 1e-3


@pytest.mark.parametrize("name", SHARING)
def test_parameter_counts(name):
    assert sum(p.numel() for p in build(name).parameters()) == COUNTS[name]


def test_convflu_units_have_the_public_names():
    unit = make_sharing("convflu", C).pair.x_from_y
    assert list(unit.state_dict()) == ["W_r.weight", "W.weight", "U.weight", "W_z.weight"]


def test_only_convflu_has_gates(features):
    for name in SHARING:
        gates = build(name)(*features, return_gates=True)[2]
        if name == "convflu":
            assert gates.x_from_y.r.shape == gates.y_from_x.z.shape == features[0].shape
        else:
            assert gates is None


def test_sluice_penalty_is_zero_for_orthogonal_filters_and_counts_overlap():
    share = make_sharing("sluice", 4)
    apart = torch.eye(4).reshape(4, 4, 1, 1)
    assert share.penalty(apart, apart) == 0
    overlapping = apart.clone()
    overlapping[2, 0] = 3.0  # filter 2 (second subspace) now meets filter 0 (first) with product 3
    assert share.penalty(overlapping, apart) == 9
    assert share.penalty(apart, overlapping) == 9
    assert make_sharing("nddr", 4).penalty(apart, apart) is None


def test_convflu_takes_its_options():
    pair = make_sharing("convflu", C, kernel_size=3, convention="keep", recompute=True).pair
    assert pair.x_from_y.W_r.weight.shape == (C, 2 * C, 3, 3)
    assert pair.convention == "keep" and pair.x_from_y.recompute


@pytest.mark.parametrize(
    ("options", "argument"), [({"kernel_size": 3}, "kernel_size"), ({"convention": "keep"}, "convention")]
)
def test_options_without_meaning_are_refused(options, argument):
    with pytest.raises(ValueError, match=f"{argument}: sharing='nddr' has no such gates"):
        make_sharing("nddr", C, **options)


def test_unknown_name_lists_the_known():
    with pytest.raises(
        ValueError, match=r"convflu, none, hard, cross_stitch, sluice, nddr, mtan, pad .* 'soft'"
    ):
        make_sharing("soft", C)


def test_every_way_states_its_formula():
    for cls in SHARING.values():
        assert "'" in inspect.getdoc(cls) and "=" in inspect.getdoc(cls)
