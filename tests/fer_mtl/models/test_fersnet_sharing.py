"""FERSNet's branches and what passes between them."""

import pytest
import torch

from fer_mtl.models.sharing import SHARING
from tests.fer_mtl.models.small_fersnet import faces, small


@pytest.mark.parametrize("sharing", SHARING)
def test_branches_reach_each_other_only_through_sharing(sharing):
    model = small(sharing=sharing, image_size=64).train()
    features = model.encode(faces(4, size=64))
    for own, other, result in (("fer", "fes", features.x[-1]), ("fes", "fer", features.y[-1])):
        model.zero_grad()
        (result * torch.randn_like(result)).sum().backward(retain_graph=True)

        def reached(branch):
            blocks = [getattr(level, branch) for level in model.levels]
            return [b is not None and b.conv1.weight.grad is not None for b in blocks]

        if sharing == "hard":
            assert reached("fer") == [True] * 3 and reached("fes") == [False] * 3
        else:
            assert reached(own) == [True] * 3
            assert reached(other) == [sharing != "none"] * 3


def test_conventions_are_one_function_under_a_sign():
    accept, keep = small(convention="accept").eval(), small(convention="keep").eval()
    state = {key: -value if "W_z" in key else value for key, value in accept.state_dict().items()}
    keep.load_state_dict(state)
    target = torch.tensor([1, 2])
    a, k = (model(faces(), target, return_gates=True) for model in (accept, keep))
    torch.testing.assert_close(a["logits"], k["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a["image"], k["image"], rtol=1e-4, atol=1e-5)
    for of_accept, of_keep in zip(a["gates"], k["gates"], strict=True):
        torch.testing.assert_close(of_accept.x_from_y.z, 1 - of_keep.x_from_y.z)
        torch.testing.assert_close(of_accept.y_from_x.r, of_keep.y_from_x.r)


@pytest.mark.parametrize(
    ("levels", "numbers"), [(3, (1, 2, 3)), (1, (1,)), (0, ()), ((2, 3), (2, 3)), ([3], (3,)), ((), ())]
)
def test_levels_choose_where_to_share(levels, numbers):
    model = small(levels=levels).eval()
    assert model.shared_levels == numbers
    full = model.parameter_counts()["sharing"]
    assert full == sum(12 * (8 * 2**number) ** 2 for number in numbers)
    gates = model(faces(), return_gates=True)["gates"]
    assert [g.x_from_y.z.shape[1] for g in gates or []] == [8 * 2**number for number in numbers]


def test_hard_sharing_of_some_levels_splits_after_them():
    assert [level.fes is None for level in small(sharing="hard", levels=2).levels] == [True, True, False]
    assert small(sharing="hard", levels=2).joint.conv1.in_channels == 128
    assert small(sharing="hard").joint.conv1.in_channels == 64
    outputs = small(sharing="hard", levels=1)(faces(), torch.tensor([0, 1]))
    assert outputs["image"].shape == (2, 3, 32, 32)


def test_gates_are_those_of_convflu_only():
    for sharing in SHARING:
        gates = small(sharing=sharing).eval()(faces(), return_gates=True)["gates"]
        assert (gates is not None) == (sharing == "convflu")


def test_kernel_and_recompute_reach_the_units():
    model = small(kernel_size=3, recompute=True)
    unit = model.levels[0].share.pair.x_from_y
    assert unit.W_z.kernel_size == (3, 3) and unit.recompute
    model(faces())["logits"].sum().backward()
    assert unit.W_z.weight.grad.abs().sum() > 0
