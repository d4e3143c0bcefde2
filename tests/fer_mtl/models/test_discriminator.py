import pytest
import torch
import torch.nn.functional as F

from fer_mtl.models.discriminator import Discriminator


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts():
    assert count(Discriminator(6)) == 2_770_881
    assert count(Discriminator(7)) == 2_770_881 + 64 * 16
    assert count(Discriminator(6, in_channels=1)) == 2_770_881 - 2 * 64 * 16


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (48, 80)])
@pytest.mark.parametrize("channels", [1, 3])
def test_scores_one_value_a_patch(size, channels):
    model = Discriminator(5, channels, width=0.125)
    scores = model(torch.rand(2, channels, *size), torch.tensor([0, 4]))
    assert scores.shape == (2, 1, size[0] // 16, size[1] // 16)


def test_is_its_formula():
    torch.manual_seed(0)
    model = Discriminator(2, width=0.125).double()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    weights = list(model.parameters())
    x = torch.cat(
        [image, torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None, None].expand(2, 2, 32, 32)], dim=1
    )
    x = F.leaky_relu(F.conv2d(x, weights[0], weights[1], stride=2, padding=1), 0.2)
    for w, b in zip(weights[2:8:2], weights[3:8:2], strict=True):
        x = F.leaky_relu(F.instance_norm(F.conv2d(x, w, b, stride=2, padding=1)), 0.2)
    expected = F.conv2d(F.pad(x, (1, 0, 1, 0)), weights[8], weights[9], padding=1)
    torch.testing.assert_close(model(image, torch.tensor([0, 1])), expected)


def test_the_condition_matters_and_may_be_soft():
    torch.manual_seed(0)
    model = Discriminator(3, width=0.125)
    image = torch.rand(1, 3, 32, 32)
    first, second = model(image, torch.tensor([0])), model(image, torch.tensor([1]))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model(image, torch.tensor([[0.0, 1.0, 0.0]])), second)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Discriminator(1), ValueError, "num_expressions: .* got 1"),
        (lambda: Discriminator(in_channels=2), ValueError, "in_channels: .* got 2"),
        (lambda: Discriminator(width=0), ValueError, "width: .* got 0"),
        (
            lambda: Discriminator(3)(torch.rand(1, 3, 40, 40), torch.tensor([0])),
            ValueError,
            "image: .* 16, got 40 x 40",
        ),
        (
            lambda: Discriminator(3)(torch.rand(1, 3, 16, 16), torch.tensor([0])),
            ValueError,
            "image: more than 16 x 16",
        ),
        (
            lambda: Discriminator(3)(torch.rand(2, 3, 32, 32), torch.tensor([0])),
            ValueError,
            r"expression: .*\(2\).* 1",
        ),
        (
            lambda: Discriminator(3)(torch.rand(1, 3, 32, 32), torch.tensor([3])),
            ValueError,
            "expression: .* 0 .. 2",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
