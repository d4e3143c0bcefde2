import pytest
import torch
import torch.nn.functional as F

from fer_mtl.models.blocks import (
    ConvPair,
    ResidualBlock,
    Stem,
    UpBlock,
    batch_norm_relu,
    instance_norm_relu,
    scaled,
)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (64, 0.25, 16), (64, 0.01, 8), (128, 0.33, 40), (512, 1.5, 768)],
)
def test_scaled_channels_are_multiples_of_eight(channels, width, expected):
    assert scaled(channels, width) == expected


@pytest.mark.parametrize("norm", [batch_norm_relu, instance_norm_relu], ids=["batch", "instance"])
@pytest.mark.parametrize("out_channels", [8, 16], ids=["identity shortcut", "projected shortcut"])
def test_residual_block_is_its_formula(norm, out_channels):
    torch.manual_seed(0)
    block = ResidualBlock(8, out_channels, norm).double()
    x = torch.randn(3, 8, 5, 7, dtype=torch.float64)

    def plain_norm(v):
        if norm is batch_norm_relu:
            return F.batch_norm(v, None, None, training=True)
        return F.instance_norm(v)

    hidden = plain_norm(F.conv2d(x, block.conv1.weight, padding=1)).relu()
    shortcut = x if out_channels == 8 else F.conv2d(x, block.shortcut.weight)
    whole = (plain_norm(F.conv2d(hidden, block.conv2.weight, padding=1)) + shortcut).relu()
    torch.testing.assert_close(block(x), F.max_pool2d(whole, 2))
    assert block.conv1.bias is None and block.conv2.bias is None


def test_only_the_recognition_norm_has_parameters():
    assert [name for name, _ in batch_norm_relu(8).named_parameters()] == ["weight", "bias"]
    assert list(instance_norm_relu(8).parameters()) == []


def test_stem_halves_and_conv_pair_keeps():
    assert Stem(3, 8)(torch.rand(2, 3, 8, 12)).shape == (2, 8, 4, 6)
    pair = ConvPair(4, 8, 16)
    assert pair(torch.rand(2, 4, 5, 6)).shape == (2, 16, 5, 6)


def test_up_block_restyles_the_skip_but_not_the_input():
    torch.manual_seed(0)
    block = UpBlock(16, 8, 4, (8, 12), num_expressions=5).eval()
    x, skip = torch.rand(2, 16, 3, 4), torch.rand(2, 4, 6, 8)
    code = torch.eye(5)[:2]
    assert block(x, skip, code).shape == (2, 12, 6, 8)
    assert not torch.allclose(block(x, skip, code), block(x, skip, code.flip(0)))
    with torch.no_grad():
        block.style.style.weight.zero_()
    torch.testing.assert_close(block(x, skip, code), block(x, torch.rand_like(skip), code))
