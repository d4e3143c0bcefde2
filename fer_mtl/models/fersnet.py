"""FERSNet: one network that recognises a facial expression and redraws the face with another one.

Zhao et al., "Deep Multi-task Learning for Facial Expression Recognition and Synthesis Based on Selective
Feature Sharing", ICPR 2020 (arXiv 2007.04514); layer sizes as in its public training code of 2021.

    image -> stem -> 3 x ([FER block | FES block] -> sharing) -> joint block -> classifier -> logits
                                                                             -> decoder    -> image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fer_mtl.models.blocks import (
    ConvPair,
    ResidualBlock,
    Stem,
    UpBlock,
    Upsample,
    batch_norm_relu,
    instance_norm_leaky,
    instance_norm_relu,
    scaled,
)
from fer_mtl.models.checks import check_at_least, check_channels, check_images, check_positive
from fer_mtl.models.conditioning import expression_codes
from fer_mtl.models.pretrained import Pretrained
from fer_mtl.models.sharing import NoSharing, Shared, Sharing, make_sharing, sharing_class
from fused_ops import FusedAdaIN

NUM_LEVELS = 3
STRIDE = 32  # stem, three levels and joint block each halve the image


class Features(NamedTuple):
    """What :meth:`FERSNet.encode` finds in images of side S; c is 64 times the width.

    Attributes:
        image: [N, in_channels, S, S], the images themselves.
        stem: [N, c, S/2, S/2], read by both tasks.
        x, y: per level the recognition and the synthesis features after sharing, from [N, 2c, S/4, S/4] to
            [N, 8c, S/16, S/16].
        recognition, synthesis: the halves of the joint block, each [N, 8c, S/32, S/32]; the second is None
            without a decoder.
        gates: one entry per sharing level, or None where there are none or none were asked for.
    """

    image: Tensor
    stem: Tensor
    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    recognition: Tensor
    synthesis: Tensor | None
    gates: list[Any] | None


class Level(nn.Module):
    """One residual block per branch, which halves the image, then the sharing of what comes out.

    With ``two_branches=False`` the recognition block serves both tasks.
    """

    def __init__(self, in_channels: int, out_channels: int, share: Sharing, two_branches: bool) -> None:
        super().__init__()
        self.fer = ResidualBlock(in_channels, out_channels, batch_norm_relu)
        self.fes = ResidualBlock(in_channels, out_channels, instance_norm_relu) if two_branches else None
        self.share = share

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        """x, y [N, in_channels, H, W] -> (x', y', gates), with x' and y' [N, out_channels, H/2, W/2]."""
        x = self.fer(x)
        y = x if self.fes is None else self.fes(y)
        return self.share(x, y, return_gates)


class Classifier(nn.Module):
    """conv3x3 (bias), batch norm, ReLU, global average, linear: [N, channels, H, W] -> logits [N, E]."""

    def __init__(self, channels: int, num_expressions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = batch_norm_relu(channels)
        self.linear = nn.Linear(channels, num_expressions)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).mean((2, 3)))


class Decoder(nn.Module):
    """From the joint block's second half and the encoder's synthesis features to a redrawn face.

    The bottleneck and all skips are restyled to the target expression. The output has no activation: that
    pixels lie in [0, 1] is learnt, not forced.

    Args:
        channels: of stem and levels, ``(c, 2c, 4c, 8c)``.
        out_channels: of the image.
        num_expressions: length of the expression code.
        blend: draw a mask too, through which the drawing is laid over the source.
    """

    def __init__(
        self, channels: Sequence[int], out_channels: int, num_expressions: int, blend: bool = False
    ) -> None:
        super().__init__()
        c1, c2, c4, c8 = channels
        self.style = FusedAdaIN(c8, num_expressions)
        # in, up, skip, (hidden, out); the skips are the features of levels 3, 2, 1 and of the stem
        sizes = (
            (c8, c8, c8, (c8, c8)),
            (c8, c4, c4, (c8, c4)),
            (c4, c2, c2, (c4, c2)),
            (c2, c1, c1, (c2, c2)),
        )
        self.ups = nn.ModuleList(UpBlock(*size, num_expressions=num_expressions) for size in sizes)
        self.last_up = Upsample(c2, c1, instance_norm_leaky)
        self.refine = ConvPair(c1, c1, c1)
        self.to_image = nn.Conv2d(c1, out_channels, 3, padding=1)
        self.to_mask = nn.Conv2d(c1, 1, 3, padding=1) if blend else None

    def forward(self, x: Tensor, skips: Sequence[Tensor], code: Tensor, source: Tensor) -> Tensor:
        """x [N, 8c, S/32, S/32], skips from small to large, code [N, E], source [N, out_channels, S, S] ->
        [N, out_channels, S, S]."""
        x = self._restyle(x, code)
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x, skip, code)
        x = self.refine(self.last_up(x))
        image = self.to_image(x)
        if self.to_mask is None:
            return image
        mask = self.to_mask(x).sigmoid()
        return mask * image + (1 - mask) * source

    def _restyle(self, x: Tensor, code: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] > 1:
            return self.style(x, code)
        # A 32 x 32 image ends in one position, of which instance norm would leave nothing: scale and shift.
        gamma, beta = self.style.style(code)[:, :, None, None].chunk(2, dim=1)
        return gamma * x + beta


class FERSNet(Pretrained, nn.Module):
    """Facial expression recognition and synthesis with selective feature sharing.

    Args:
        num_expressions: E, at least 2.
        image_size: side of the images it is meant for, a multiple of 32. The network is fully convolutional
            and takes any other multiple too; this one is recorded for those who prepare its data.
        width: scales all channel counts, which stay multiples of 8. 1.0 with 6 expressions is the published
            network of 53,983,438 parameters.
        sharing: how the branches share, a key of :data:`fer_mtl.models.sharing.SHARING`.
        convention: ``"accept"`` or ``"keep"``, what an open update gate of ``convflu`` means.
        in_channels: 1 (grey) or 3 (colour).
        kernel_size: of the gates of ``convflu``, odd.
        recompute: let ``convflu`` recompute its gates in the backward instead of keeping them.
        levels: which of the three levels share: a number n for the first n, or numbers, e.g. ``(2, 3)``.
        synthesis: False builds the recognition branch alone, the paper's Baseline: no synthesis blocks, no
            decoder, half a joint block. Needs ``sharing="none"``.
        blend: let the decoder draw a mask as well and keep the source where it is 0, so that it only has to
            draw what changes (the idea of Pumarola et al., "GANimation", ECCV 2018; not in the paper, whose
            decoder draws the whole face out of features without their brightness).

    ``sharing="none"`` with synthesis is the same network without its sharing units: stem and joint block
    still serve both tasks. ``sharing="hard"`` makes its levels one trunk; if the third is among them, the
    joint block reads the trunk's features once.

    Attributes:
        config: the constructor's arguments by name.
        shared_levels: numbers (1 to 3) of the levels that share.

    Raises:
        ValueError: an argument out of its range; the message names it.
    """

    def __init__(
        self,
        num_expressions: int = 7,
        image_size: int = 96,
        width: float = 1.0,
        sharing: str = "convflu",
        convention: str = "accept",
        in_channels: int = 3,
        kernel_size: int = 1,
        recompute: bool = False,
        levels: int | Sequence[int] = NUM_LEVELS,
        synthesis: bool = True,
        blend: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("num_expressions", num_expressions, 2)
        check_channels("in_channels", in_channels)
        if image_size <= 0 or image_size % STRIDE:
            raise ValueError(f"image_size: a positive multiple of {STRIDE} is needed, got {image_size}")
        check_positive("width", width)
        one_trunk = sharing_class(sharing).one_trunk
        if not synthesis and sharing != "none":
            raise ValueError(
                f"sharing: without synthesis there is nothing to share, use 'none'; got {sharing!r}"
            )
        self.shared_levels = _level_numbers(levels, from_the_first=one_trunk)
        self.config: dict[str, Any] = {
            "num_expressions": num_expressions,
            "image_size": image_size,
            "width": width,
            "sharing": sharing,
            "convention": convention,
            "in_channels": in_channels,
            "kernel_size": kernel_size,
            "recompute": recompute,
            "levels": levels if isinstance(levels, int) else list(levels),
            "synthesis": synthesis,
            "blend": blend,
        }
        self.num_expressions = num_expressions
        self.image_size = image_size
        self.in_channels = in_channels

        channels = [scaled(64 * 2**number, width) for number in range(NUM_LEVELS + 1)]
        deepest = channels[-1]
        options: dict[str, Any] = {
            "kernel_size": kernel_size,
            "convention": convention,
            "recompute": recompute,
        }

        def level(number: int) -> Level:
            shares = number in self.shared_levels
            out_channels = channels[number]
            share = make_sharing(sharing, out_channels, **options) if shares else NoSharing(out_channels)
            return Level(channels[number - 1], out_channels, share, synthesis and not (shares and one_trunk))

        self.stem = Stem(in_channels, channels[0])
        self.levels = nn.ModuleList(level(number) for number in range(1, NUM_LEVELS + 1))
        self.two_branches = self.levels[-1].fes is not None
        self.joint = ResidualBlock(
            2 * deepest if self.two_branches else deepest,
            2 * deepest if synthesis else deepest,
            batch_norm_relu,
        )
        self.classifier = Classifier(deepest, num_expressions)
        self.decoder = Decoder(channels, in_channels, num_expressions, blend) if synthesis else None

    def forward(
        self, image: Tensor, target_expression: Tensor | None = None, return_gates: bool = False
    ) -> dict[str, Any]:
        """Recognise the expression of each image and, where a target is given, redraw the face with it.

        Args:
            image: floating point [N, in_channels, H, W] in [0, 1], H and W multiples of 32.
            target_expression: int64 [N] labels or floating-point [N, E] codes; None skips the decoder.
            return_gates: also return the sharing units' gates.

        Returns:
            ``{"logits": [N, E], "image": [N, in_channels, H, W] or None, "gates": list or None}``, with one
            entry of gates (:class:`fused_ops.FusedSelectiveShare`'s) per number in ``shared_levels``.

        Raises:
            TypeError, ValueError: a wrong type or shape; a target for a network without synthesis.
        """
        features = self.encode(image, return_gates)
        drawn = None if target_expression is None else self.decode(features, target_expression)
        return {"logits": self.classifier(features.recognition), "image": drawn, "gates": features.gates}

    def encode(self, image: Tensor, return_gates: bool = False) -> Features:
        """Stem, levels and joint block, as :class:`Features`: encode once to decode several expressions."""
        check_images("image", image, self.in_channels, STRIDE)
        stem = x = y = self.stem(image)
        xs, ys, gates = [], [], []
        for level in self.levels:
            x, y, level_gates = level(x, y, return_gates)
            xs.append(x)
            ys.append(y)
            if level_gates is not None:
                gates.append(level_gates)
        joint = self.joint(torch.cat([x, y], dim=1) if self.two_branches else x)
        recognition, synthesis = (joint, None) if self.decoder is None else joint.chunk(2, dim=1)
        return Features(image, stem, tuple(xs), tuple(ys), recognition, synthesis, gates or None)

    def decode(self, features: Features, target_expression: Tensor) -> Tensor:
        """The encoded faces redrawn, [N, in_channels, H, W]; the target as in :meth:`forward`."""
        x = features.synthesis
        if self.decoder is None or x is None:
            raise ValueError(
                "target_expression: None is needed, built with synthesis=False this network cannot draw"
            )
        code = expression_codes(target_expression, self.num_expressions, x.dtype)
        if code.shape[0] != x.shape[0]:
            raise ValueError(
                f"target_expression: one per image ({x.shape[0]}) is needed, got {code.shape[0]}"
            )
        return self.decoder(x, (*reversed(features.y), features.stem), code, features.image)

    def synthesize(self, image: Tensor, target_expression: Tensor) -> Tensor:
        """:meth:`forward`'s image alone, without the classifier: what the cycle pass needs."""
        return self.decode(self.encode(image), target_expression)

    def _each_level(self) -> list[Level]:
        return cast(list[Level], list(self.levels))  # a ModuleList forgets the type of what it holds

    def sharing_penalty(self) -> Tensor | None:
        """What the sharing units add to the loss (``sluice``: orthogonality), a scalar; None for most."""
        penalties = [
            level.share.penalty(level.fer.conv2.weight, level.fes.conv2.weight)
            for level in self._each_level()
            if level.fes is not None
        ]
        found = [penalty for penalty in penalties if penalty is not None]
        return torch.stack(found).sum() if found else None

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters by part, and ``"total"``."""
        parts: dict[str, list[nn.Module | None]] = {
            "stem": [self.stem],
            "fer": [level.fer for level in self._each_level()],
            "fes": [level.fes for level in self._each_level()],
            "sharing": [level.share for level in self._each_level()],
            "joint": [self.joint],
            "classifier": [self.classifier],
            "decoder": [self.decoder],
        }
        counts = {
            part: sum(p.numel() for module in modules if module is not None for p in module.parameters())
            for part, modules in parts.items()
        }
        return {**counts, "total": sum(counts.values())}


def _level_numbers(levels: int | Sequence[int], from_the_first: bool) -> tuple[int, ...]:
    numbers = tuple(range(1, levels + 1)) if isinstance(levels, int) else tuple(levels)
    every = tuple(range(1, NUM_LEVELS + 1))
    if isinstance(levels, int) and not 0 <= levels <= NUM_LEVELS:
        raise ValueError(f"levels: a number from 0 to {NUM_LEVELS} is needed, got {levels}")
    if len(set(numbers)) != len(numbers) or not set(numbers) <= set(every):
        raise ValueError(f"levels: different numbers out of {every} are needed, got {levels}")
    if from_the_first and set(numbers) != set(every[: len(numbers)]):
        raise ValueError(f"levels: a hard-shared trunk has no gap at its start, e.g. (1, 2); got {levels}")
    return tuple(sorted(numbers))
