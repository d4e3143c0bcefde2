import pytest
import torch

from fer_mtl.models.checks import check_at_least, check_channels, check_images, check_positive


def test_allowed_values_pass():
    check_at_least("n", 2, 2)
    check_positive("width", 0.1)
    check_channels("channels", 1)
    check_images("face", torch.zeros(0, 3, 32, 64, dtype=torch.float16), 3, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_at_least("n", 1, 2), "n: at least 2 are needed, got 1"),
        (lambda: check_positive("width", float("nan")), "width: a number above 0 is needed, got nan"),
        (lambda: check_channels("channels", 4), "channels: .* got 4"),
    ],
)
def test_others_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            TypeError,
            "face: a floating-point tensor .* torch.uint8",
        ),
        ([1, 2], TypeError, "face: .* list"),
        (torch.zeros(3, 32, 32), ValueError, r"face: \[N, 3, H, W\] .* \[3, 32, 32\]"),
        (torch.zeros(2, 1, 32, 32), ValueError, r"face: \[N, 3, H, W\] .* \[2, 1, 32, 32\]"),
        (torch.zeros(2, 3, 32, 48), ValueError, "face: .* multiples of 32, got 32 x 48"),
        (torch.zeros(2, 3, 0, 32), ValueError, "face: .* multiples of 32, got 0 x 32"),
    ],
)
def test_wrong_images_are_named(images, error, message):
    with pytest.raises(error, match=message):
        check_images("face", images, 3, 32)
