import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.sharing import SHARING
from fused_ops import native, use
from tests.fer_mtl.models.small_fersnet import faces, small

KEYS = Path(__file__).with_name("fersnet_keys.txt")
PUBLISHED = 53_983_438
#: width 1, 6 expressions; the sharing units are 12 C^2 for C = 128, 256, 512
BY_SHARING = {
    "convflu": PUBLISHED,
    "none": PUBLISHED - 12 * (128**2 + 256**2 + 512**2),
    "hard": 40_843_470,
    "cross_stitch": 49_858_254,
    "sluice": 49_854_718,
    "nddr": 51_234_510,
    "mtan": 51_926_222,
    "pad": 62_240_974,
}


# Parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", SHARING)
def test_parameter_counts(sharing):
    counts = FERSNet(6, sharing=sharing).parameter_counts()
    assert counts["total"] == BY_SHARING[sharing]
    assert counts["total"] == sum(count for part, count in counts.items() if part != "total")


def test_counts_are_those_of_the_module():
    model = small(num_expressions=5, in_channels=1)
    assert model.parameter_counts()["total"] == sum(p.numel() for p in model.parameters())


def test_state_dict_keys_are_those_of_released_weights():
    """Renaming a layer breaks every saved network: on purpose, the list is a file of its own."""
    found = [f"{key} {list(value.shape)}" for key, value in small(num_expressions=6).state_dict().items()]
    assert found == KEYS.read_text().splitlines()


def test_style_and_classifier_follow_the_number_of_expressions():
    for expressions in (2, 6, 7, 8):
        model = small(num_expressions=expressions)
        styles = [model.decoder.style, *(up.style for up in model.decoder.ups)]
        assert [style.style.in_features for style in styles] == [expressions] * 5
        assert model.classifier.linear.out_features == expressions


# The function -------------------------------------------------------------------------------------


def plain_fersnet(state, image, code):
    """The published network written out with plain PyTorch functions, in evaluation mode."""

    def bn(name, x):
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    def inst(x):
        return (x - x.mean((2, 3), keepdim=True)) / torch.sqrt(
            x.var((2, 3), correction=0, keepdim=True) + 1e-5
        )

    def conv(name, x, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    def block(name, x, norm):
        hidden = norm(f"{name}.norm1", conv(f"{name}.conv1", x)).relu()
        shortcut = conv(f"{name}.shortcut", x, padding=0) if f"{name}.shortcut.weight" in state else x
        return (norm(f"{name}.norm2", conv(f"{name}.conv2", hidden)) + shortcut).relu()

    def flu(name, x, y):
        w_r, w, u, w_z = (state[f"{name}.{part}.weight"] for part in ("W_r", "W", "U", "W_z"))
        r = torch.sigmoid(F.conv2d(torch.cat([x, y], 1), w_r))
        h = torch.tanh(F.conv2d(r * y, w) + F.conv2d(x, u))
        z = torch.sigmoid(F.conv2d(torch.cat([x, y], 1), w_z))
        return (1 - z) * x + z * h

    def style(name, x):
        gamma, beta = F.linear(code, state[f"{name}.style.weight"], state[f"{name}.style.bias"]).chunk(
            2, dim=1
        )
        return gamma[:, :, None, None] * inst(x) + beta[:, :, None, None]

    def pair(name, x):
        for part in ("conv1", "conv2"):
            x = F.leaky_relu(inst(conv(f"{name}.{part}", x)), 0.2)
        return x

    def up(name, x):
        return inst(F.conv_transpose2d(x, state[f"{name}.conv.weight"], stride=2, padding=1))

    stem = x = y = F.max_pool2d(bn("stem.norm", conv("stem.conv", image)).relu(), 2)
    skips = [stem]
    for level in range(3):
        x = F.max_pool2d(block(f"levels.{level}.fer", x, bn), 2)
        y = F.max_pool2d(block(f"levels.{level}.fes", y, lambda _, v: inst(v)), 2)
        name = f"levels.{level}.share.pair"
        x, y = flu(f"{name}.x_from_y", x, y), flu(f"{name}.y_from_x", y, x)
        skips.insert(0, y)
    x, y = F.max_pool2d(block("joint", torch.cat([x, y], 1), bn), 2).chunk(2, dim=1)
    logits = conv("classifier.conv", x)
    logits = bn("classifier.norm", logits).relu().mean((2, 3))
    logits = F.linear(logits, state["classifier.linear.weight"], state["classifier.linear.bias"])
    y = style("decoder.style", y)
    for step, skip in enumerate(skips):
        name = f"decoder.ups.{step}"
        y = torch.cat([up(f"{name}.up", y).relu(), style(f"{name}.style", skip)], 1)
        y = pair(f"{name}.refine", y)
    y = pair("decoder.refine", F.leaky_relu(up("decoder.last_up", y), 0.2))
    return logits, conv("decoder.to_image", y)


def test_network_is_the_published_one():
    model = small(num_expressions=6).double()
    image = faces(3, size=64, dtype=torch.float64)
    model.train()(image)  # running statistics that are not zero and one
    model.eval()
    target = torch.tensor([0, 5, 2])
    outputs = model(image, target)
    logits, drawn = plain_fersnet(model.state_dict(), image, F.one_hot(target, 6).double())
    torch.testing.assert_close(outputs["logits"], logits)
    torch.testing.assert_close(outputs["image"], drawn)


@pytest.mark.parametrize("expressions", [6, 7, 8])
@pytest.mark.parametrize(("size", "channels"), [(32, 3), (64, 1), (96, 3)])
def test_shapes(expressions, size, channels):
    model = small(num_expressions=expressions, in_channels=channels, image_size=size).eval()
    outputs = model(faces(2, channels, size), torch.tensor([0, expressions - 1]))
    assert outputs["logits"].shape == (2, expressions)
    assert outputs["image"].shape == (2, channels, size, size)
    assert outputs["gates"] is None


def test_other_sizes_than_its_own_and_no_images_at_all():
    model = small().eval()
    outputs = model(torch.rand(1, 3, 64, 96), torch.tensor([3]))
    assert outputs["image"].shape == (1, 3, 64, 96)
    outputs = model(torch.rand(0, 3, 64, 64), torch.zeros(0, dtype=torch.int64))
    assert outputs["logits"].shape == (0, 7) and outputs["image"].shape == (0, 3, 64, 64)


@pytest.mark.parametrize("sharing", SHARING)
def test_every_sharing_trains_both_tasks(sharing):
    model = small(sharing=sharing, image_size=64).train()
    outputs = model(faces(4, size=64), torch.tensor([0, 1, 2, 3]))
    (
        F.cross_entropy(outputs["logits"], torch.tensor([0, 1, 2, 3])) + outputs["image"].square().mean()
    ).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    penalty = model.sharing_penalty()
    assert (penalty is not None) == (sharing == "sluice")
    if penalty is not None:
        assert penalty.shape == () and penalty > 0


def test_recognition_alone_skips_the_decoder():
    model = small().eval()

    def fail(*_):
        raise AssertionError("the decoder ran")

    model.decoder.register_forward_pre_hook(fail)
    outputs = model(faces())
    assert outputs["image"] is None
    with pytest.raises(AssertionError, match="decoder ran"):
        model(faces(), torch.tensor([0, 1]))


def test_helpers_agree_with_forward():
    model = small().eval()
    target = torch.tensor([1, 4])
    outputs = model(faces(), target)
    torch.testing.assert_close(model.synthesize(faces(), target), outputs["image"])
    features = model.encode(faces())
    torch.testing.assert_close(model.decode(features, target), outputs["image"])
    torch.testing.assert_close(model.classifier(features.recognition), outputs["logits"])
    assert [f.shape[1:] for f in features.y] == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]


def test_soft_targets_lie_between_hard_ones():
    model = small(num_expressions=3, image_size=64).eval()
    image = faces(1, size=64)
    hard = model.synthesize(image, torch.tensor([2]))
    torch.testing.assert_close(model.synthesize(image, torch.tensor([[0.0, 0.0, 1.0]])), hard)
    code = torch.tensor([[0.5, 0.5, 0.0]], requires_grad=True)
    model.synthesize(image, code).sum().backward()
    assert code.grad.abs().sum() > 0
    assert not torch.allclose(model.synthesize(image, code), hard)


def test_one_position_at_the_bottom_still_reaches_the_image():
    """32 x 32 pixels: instance norm would erase the bottleneck, so that it passes un-normalised."""
    model = small().eval()
    features, target = model.encode(faces()), torch.tensor([0, 1])
    assert features.synthesis.shape[2:] == (1, 1)
    changed = features._replace(synthesis=features.synthesis + 1)
    assert not torch.allclose(model.decode(features, target), model.decode(changed, target))


def test_a_mask_lays_the_drawing_over_the_source():
    torch.manual_seed(0)
    model, target = small(blend=True).eval(), torch.tensor([1, 4])
    plain = small().eval()
    plain.load_state_dict(model.state_dict(), strict=False)  # the same drawing, without a mask
    mask = model.decoder.to_mask
    mask.weight.data.zero_()
    for bias, share in ((-200.0, 0.0), (0.0, 0.5), (200.0, 1.0)):
        mask.bias.data.fill_(bias)
        expected = share * plain.synthesize(faces(), target) + (1 - share) * faces()
        torch.testing.assert_close(model.synthesize(faces(), target), expected)
    assert FERSNet(**model.config).decoder.to_mask is not None


def test_the_mask_is_learnt_and_follows_the_source_under_autocast():
    model = small(blend=True)
    with torch.autocast("cpu", torch.bfloat16):
        image = model(faces(), torch.tensor([0, 1]))["image"]
    image.float().square().mean().backward()
    assert model.decoder.to_mask.weight.grad.abs().sum() > 0


# The baseline -------------------------------------------------------------------------------------


def test_baseline_is_the_recognition_branch_alone():
    counts = FERSNet(6, sharing="none", synthesis=False).parameter_counts()
    assert counts["fes"] == counts["decoder"] == counts["sharing"] == 0
    joint = 2 * 9 * 512**2 + 4 * 512
    fer = FERSNet(6).parameter_counts()
    assert counts["joint"] == joint
    assert counts["total"] == joint + fer["stem"] + fer["fer"] + fer["classifier"]
    model = small(sharing="none", synthesis=False)
    outputs = model(faces(4))
    assert outputs["image"] is None
    outputs["logits"].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match=r"target_expression: .* synthesis=False"):
        model(faces(), torch.tensor([0, 1]))


# Tools --------------------------------------------------------------------------------------------


def test_config_rebuilds_the_network():
    model = small(num_expressions=5, sharing="pad", levels=(2,), in_channels=1)
    twin = FERSNet(**model.config)
    assert twin.config == model.config
    twin.load_state_dict(model.state_dict())


def test_deepcopy_is_independent():
    model = small().eval()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(faces())["logits"], model(faces())["logits"])
    with torch.no_grad():
        twin.stem.conv.weight.zero_()
    assert model.stem.conv.weight.abs().sum() > 0


def test_channels_last_gives_the_same():
    model = small(image_size=64).eval()
    image, target = faces(2, size=64), torch.tensor([0, 1])
    expected = model(image, target)
    model.to(memory_format=torch.channels_last)
    outputs = model(image.to(memory_format=torch.channels_last), target)
    torch.testing.assert_close(outputs["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["image"], expected["image"], rtol=1e-3, atol=1e-4)


def test_compiles_into_one_graph():
    model = small(image_size=64).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    image, target = faces(2, size=64), torch.tensor([0, 1])
    # By name: "auto" leaves small eager norms to torch's own kernels, while a traced graph holds the ops.
    with use("cpu" if native.cpu_library().loaded else "reference"):
        found, expected = compiled(image, target, return_gates=True), model(image, target, return_gates=True)
    torch.testing.assert_close(found["image"], expected["image"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["gates"][0].x_from_y.z, expected["gates"][0].x_from_y.z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_expressions": 1}, "num_expressions: .* got 1"),
        ({"image_size": 48}, "image_size: .* multiple of 32 .* got 48"),
        ({"image_size": 0}, "image_size: .* got 0"),
        ({"width": 0.0}, "width: .* got 0"),
        ({"in_channels": 4}, "in_channels: .* got 4"),
        ({"kernel_size": 2}, "kernel_size"),
        ({"convention": "open"}, "convention"),
        ({"sharing": "soft"}, "sharing: one of convflu, .* 'soft'"),
        ({"sharing": "soft", "levels": 0}, "sharing: one of convflu, .* 'soft'"),
        ({"sharing": "nddr", "kernel_size": 3}, "kernel_size: sharing='nddr'"),
        ({"levels": 4}, "levels: .* 0 to 3 .* got 4"),
        ({"levels": (0, 1)}, r"levels: .* \(1, 2, 3\) .* got \(0, 1\)"),
        ({"levels": (1, 1)}, "levels: different"),
        ({"levels": (2, 3), "sharing": "hard"}, "levels: .* trunk .* got"),
        ({"synthesis": False}, "sharing: .* 'none'; got 'convflu'"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FERSNet(**{"width": 0.125, **options})


@pytest.mark.parametrize(
    ("image", "target", "error", "message"),
    [
        (torch.rand(2, 3, 40, 32), None, ValueError, "image: .* multiples of 32, got 40 x 32"),
        (torch.rand(2, 1, 32, 32), None, ValueError, r"image: \[N, 3, H, W\]"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), None, TypeError, "image: floating|image: a floating"),
        (
            torch.rand(2, 3, 32, 32),
            torch.tensor([0]),
            ValueError,
            r"target_expression: one per image \(2\) .* got 1",
        ),
        (torch.rand(2, 3, 32, 32), torch.tensor([0, 7]), ValueError, "expression: .* 0 .. 6"),
        (torch.rand(2, 3, 32, 32), torch.rand(2, 6), ValueError, r"expression: .*\[N, 7\]"),
    ],
)
def test_bad_calls_are_named(image, target, error, message):
    with pytest.raises(error, match=message):
        small().eval()(image, target)
