"""The building blocks of FERSNet: stem, residual block, convolution pairs, up-sampling with a styled skip.

Zhao et al., "Deep Multi-task Learning for Facial Expression Recognition and Synthesis Based on Selective
Feature Sharing", ICPR 2020 (arXiv 2007.04514), as its public training code of 2021 completes it.

The recognition branch (FER) normalises over the batch, the synthesis branch (FES) over each image; this is
the only difference between their blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fused_ops import FusedAdaIN, FusedBatchNormAct2d, FusedInstanceNormAct2d

NormAct = Callable[..., nn.Module]

batch_norm_relu: NormAct = partial(FusedBatchNormAct2d, activation="relu")
instance_norm_relu: NormAct = partial(FusedInstanceNormAct2d, activation="relu")
instance_norm_leaky: NormAct = partial(
    FusedInstanceNormAct2d, activation="leaky_relu", negative_slope=0.2, inplace=True
)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to a multiple of 8 (what vector units like) and at least 8."""
    return max(8, round(channels * width / 8) * 8)


class Stem(nn.Sequential):
    """conv3x3 (bias), batch norm, ReLU, max-pool: [N, in_channels, S, S] -> [N, out_channels, S/2, S/2].

    Both tasks read it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = batch_norm_relu(out_channels, pool=2)


class ResidualBlock(nn.Module):
    """maxpool(relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))), 3x3 without bias, 2x2 pooling.

    The shortcut is the identity, or an un-normalised 1x1 convolution where the number of channels changes.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: NormAct) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm(out_channels, pool=2)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H/2, W/2]."""
        hidden = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(hidden), residual=self.shortcut(x))


class ConvPair(nn.Sequential):
    """Twice conv3x3 (bias), instance norm, LeakyReLU 0.2: the decoder's refinement; keeps the image size."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.norm1 = instance_norm_leaky(hidden_channels)
        self.conv2 = nn.Conv2d(hidden_channels, out_channels, 3, padding=1)
        self.norm2 = instance_norm_leaky(out_channels)


class Upsample(nn.Sequential):
    """Transposed conv4x4 of stride 2 (no bias), then ``norm``: doubles height and width."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormAct) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
        self.norm = norm(out_channels)


class UpBlock(nn.Module):
    """Doubles the image, appends the encoder's features restyled to the target expression, and refines both.

    Args:
        in_channels: of the input.
        up_channels: after up-sampling.
        skip_channels: of the encoder's features.
        channels: (hidden, out) of the two refining convolutions.
        num_expressions: length of the expression code.
    """

    def __init__(
        self,
        in_channels: int,
        up_channels: int,
        skip_channels: int,
        channels: tuple[int, int],
        num_expressions: int,
    ) -> None:
        super().__init__()
        self.up = Upsample(in_channels, up_channels, instance_norm_relu)
        self.style = FusedAdaIN(skip_channels, num_expressions)
        self.refine = ConvPair(up_channels + skip_channels, *channels)

    def forward(self, x: Tensor, skip: Tensor, code: Tensor) -> Tensor:
        """x [N, in_channels, H, W], skip [N, skip_channels, 2H, 2W], code [N, E] -> [N, out, 2H, 2W]."""
        return self.refine(torch.cat([self.up(x), self.style(skip, code)], dim=1))
