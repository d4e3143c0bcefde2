"""The discriminator: which patches of a face look real for the expression it should show."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fer_mtl.models.blocks import instance_norm_leaky, scaled
from fer_mtl.models.checks import check_at_least, check_channels, check_images, check_positive
from fer_mtl.models.conditioning import expression_codes
from fer_mtl.models.pretrained import Pretrained

STRIDE = 16  # four convolutions of stride 2


class Discriminator(Pretrained, nn.Module):
    """Conditional PatchGAN: scores every patch of a face given the expression it should show.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017. Scores are
    those of least squares: 1 for real, 0 for fake, no sigmoid. 2,770,881 parameters at 6 expressions in
    colour.

    Args:
        num_expressions: E, at least 2.
        in_channels: 1 (grey) or 3 (colour).
        width: scales the channel counts, which stay multiples of 8.

    Raises:
        ValueError: an argument out of its range; the message names it.
    """

    def __init__(self, num_expressions: int = 7, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        check_at_least("num_expressions", num_expressions, 2)
        check_channels("in_channels", in_channels)
        check_positive("width", width)
        self.config: dict[str, Any] = {
            "num_expressions": num_expressions,
            "in_channels": in_channels,
            "width": width,
        }
        self.num_expressions = num_expressions
        self.in_channels = in_channels

        channels = [scaled(64 * 2**depth, width) for depth in range(4)]

        def halve(depth: int) -> nn.Sequential:
            conv = nn.Conv2d(channels[depth - 1], channels[depth], 4, stride=2, padding=1)
            return nn.Sequential(conv, instance_norm_leaky(channels[depth]))

        self.first = nn.Sequential(
            nn.Conv2d(in_channels + num_expressions, channels[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)
        )
        self.halvings = nn.Sequential(*(halve(depth) for depth in range(1, 4)))
        # An even kernel has no middle: one more column and row on the left and top keep the size.
        self.score = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(channels[-1], 1, 4, padding=1))

    def forward(self, image: Tensor, expression: Tensor) -> Tensor:
        """Score the patches of faces.

        Args:
            image: floating point [N, in_channels, H, W], H and W multiples of 16, larger than 16 x 16.
            expression: int64 [N] labels or floating-point [N, E] codes.

        Returns:
            [N, 1, H/16, W/16].

        Raises:
            TypeError, ValueError: a wrong type or shape; the argument is named.
        """
        check_images("image", image, self.in_channels, STRIDE)
        if image.shape[2] == image.shape[3] == STRIDE:  # one patch alone cannot be normalised
            raise ValueError(
                f"image: more than {STRIDE} x {STRIDE} pixels are needed, got {list(image.shape)}"
            )
        code = expression_codes(expression, self.num_expressions, image.dtype)
        if code.shape[0] != image.shape[0]:
            raise ValueError(f"expression: one per image ({image.shape[0]}) is needed, got {code.shape[0]}")
        maps = code[:, :, None, None].expand(-1, -1, *image.shape[2:])
        return self.score(self.halvings(self.first(torch.cat([image, maps], dim=1))))
