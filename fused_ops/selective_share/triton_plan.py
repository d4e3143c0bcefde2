"""What the Triton kernels of ``selective_share`` are told of a call, and where its tensors lie."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_ops import tuning
from fused_ops.selective_share import reference
from fused_ops.triton_support import (
    Card,
    card_for,
    ceil_div,
    interpreting,
    next_power_of_two,
    resident_programs,
    step_of,
)

LARGEST_TILE = 256  # pixels of a program's tile; no row of the launch tables asks for more


def precision_of(dtype: torch.dtype) -> str:
    """What float32 factors are rounded to: TF32 where torch's own setting for matrix products allows it."""
    # Not allow_tf32: reading it raises where the setting was made through torch's newer names.
    exact = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"
    return "ieee" if exact else "tf32"


def is_even(channels: tuple[int, int]) -> int:
    """Whether all channels fill tiles, a fact of the launch tables."""
    most = max(channels)
    return int(all(c >= 16 and (c % 128 == 0 if most > 128 else c.bit_count() == 1) for c in channels))


def filled(channels: tuple[int, int], pixels: int, processors: int) -> int:
    """How much of a card tiles of 128 pixels x 128 channels of x and y fill, a fact of the launch tables.

    0: at most a quarter of its processors, 1: at most all, 2: more than that. Always 1 for up to 128
    channels, of which a tile has all.
    """
    if max(channels) <= 128:
        return 1
    tiles = ceil_div(pixels, 128) * sum(ceil_div(c, 128) for c in channels)
    return int(4 * tiles > processors) + int(tiles > processors)


class Call(NamedTuple):
    """What the kernels of a call are told of its tensors: plain values, by which launches are remembered."""

    card: Card
    itemsize: int
    precision: str
    samples: int
    plane: int
    cx: int
    cy: int
    x_of: int  # channels of the memory that x is a slice of
    y_of: int
    pair: bool
    keep: bool
    last: bool  # the channels of a pixel are adjacent

    @classmethod
    def of(
        cls, x: Tensor, y: Tensor, pair: bool, keep: bool, layout: torch.memory_format
    ) -> tuple[Call, Tensor, Tensor]:
        """The call, and x and y as its kernels can address them."""
        x, x_of = slice_of(x, layout)
        y, y_of = slice_of(y, layout)
        samples, cx, height, width = x.shape
        call = cls(
            card_for(x.device), x.element_size(), precision_of(x.dtype), samples, height * width, cx,
            y.size(1), x_of, y_of, pair, keep, is_last(x, layout),
        )  # fmt: skip
        return call, x, y

    @property
    def channels(self) -> tuple[int, int]:
        return self.cx, self.cy

    @property
    def gate_channels(self) -> int:
        return sum(reference.gate_sizes(self.cx, self.cy, self.pair))

    @property
    def reset_channels(self) -> int:
        """Channels of the sources of all units, and so of what passes their reset gates."""
        return self.cx + self.cy if self.pair else self.cy

    @property
    def units(self) -> int:
        return 2 if self.pair else 1

    @property
    def pixels(self) -> int:
        return self.samples * self.plane

    @property
    def sizes(self) -> tuple[int, int]:
        """pixels and units as the kernels take them."""
        return self.pixels, self.plane // math.gcd(self.plane, 16)

    @property
    def weights(self) -> int:
        """Elements of all weights."""
        cx, cy = self.channels
        return (cx + cy) * (2 * cx + cy) + ((cx + cy) * (cx + 2 * cy) if self.pair else 0)

    def programs(self, tiles: int, resident: int, parts: int = 1) -> int:
        """The grid of a kernel whose programs go through many tiles."""
        return resident_programs(tiles, resident, self.card.processors, parts)

    def choose(self, family: str, *grads_of: int, **facts: int) -> Mapping[str, Any]:
        """The row of the launch tables for this call; ``grads_of``: as x_of, of the gradients."""
        return tuning.choose(
            self.card.architecture, f"selective_share.{family}", channels=max(self.channels),
            itemsize=self.itemsize, precision=self.precision, even=self.is_even,
            alike=self._is_alike(family, grads_of), sliced=self._is_sliced(grads_of),
            aligned=self._is_aligned, filled=filled(self.channels, self.pixels, self.card.processors),
            **facts,
        )  # fmt: skip

    def _is_alike(self, family: str, grads_of: tuple[int, ...]) -> int:
        """Whether each kernel has one stretch of code, and so half the shared memory, a fact of the tables.

        It serves both units of a pair that look alike. A single unit's backward has one for x and one for y.
        """
        if not self.pair:
            return int(family != "backward")
        return int(all(len(set(sizes)) <= 1 for sizes in (self.channels, (self.x_of, self.y_of), grads_of)))

    def _is_sliced(self, grads_of: tuple[int, ...]) -> int:
        """Whether features or gradients are slices of wider memory: their addresses take registers."""
        return int((self.x_of, self.y_of) != self.channels or grads_of not in ((), self.channels))

    @property
    def _is_aligned(self) -> int:
        """Whether pixels lie together in fours: those loaded one by one take registers for addresses."""
        return int(self.last or self.plane % 4 == 0)

    @property
    def is_even(self) -> int:
        """Whether all channels fill tiles, so that no kernel needs masks for them."""
        return is_even(self.channels)

    def constants(self) -> dict[str, Any]:
        """What every kernel that reads x or y takes."""
        return {**self.shape_constants(), "X_OF": self.x_of, "Y_OF": self.y_of}

    def shape_constants(self) -> dict[str, Any]:
        return {
            "UNIT": math.gcd(self.plane, 16), "CX": self.cx, "CY": self.cy, "PAIR": self.pair,
            "LAST": self.last,
        }  # fmt: skip

    def arithmetic(self) -> dict[str, Any]:
        return {"PRECISION": self.precision}

    def gate_arithmetic(self) -> dict[str, Any]:
        return {**self.arithmetic(), "FAST": self.itemsize == 2 and not interpreting()}

    def channel_blocks(self) -> dict[str, int]:
        cx, cy = self.channels
        return {"BLOCK_X": max(16, next_power_of_two(cx)), "BLOCK_Y": max(16, next_power_of_two(cy))}

    def step(self, wanted: int) -> int:
        """How many channels a step of the kernels of few channels takes: no more than any tile has."""
        return min(wanted, *self.channel_blocks().values())

    def columns(self, wanted: int) -> int:
        """How many channels a tile of a product has: fewer where those of an even call would not fill it."""
        return math.gcd(wanted, *self.channels) if self.is_even else wanted

    def tiles(self, pixels: int, columns: int) -> tuple[int, int, int]:
        """Tiles of pixels, of x's channels, of y's channels."""
        return ceil_div(self.pixels, pixels), ceil_div(self.cx, columns), ceil_div(self.cy, columns)


def tile_constants(choice: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The tiles of pixels, warps and stages of a row of the launch tables."""
    stages = choice[f"{prefix}stages"]
    return {
        "BLOCK_P": choice[f"{prefix}pixels"], "STAGES": stages, "num_stages": stages,
        "num_warps": choice[f"{prefix}warps"],
    }  # fmt: skip


def empty_like(x: Tensor, channels: int, layout: torch.memory_format) -> Tensor:
    """An empty tensor of so many channels, of x's kind."""
    shape = (x.size(0), channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def is_last(tensor: Tensor, layout: torch.memory_format) -> bool:
    """Whether kernels address it as channels last; single pixels lie so, whatever the format is called."""
    return layout == torch.channels_last or tensor.size(2) * tensor.size(3) == 1


def slice_of(tensor: Tensor, layout: torch.memory_format) -> tuple[Tensor, int]:
    """The tensor and the channels of the memory that it is a slice of; a copy where it is no such slice."""
    of = _slice_of(tensor.shape, tensor.stride(), layout)
    return (tensor.clone(memory_format=layout), tensor.size(1)) if of is None else (tensor, of)


@functools.lru_cache(maxsize=4096)
def _slice_of(sizes: tuple[int, ...], strides: tuple[int, ...], layout: torch.memory_format) -> int | None:
    pixels = sizes[2] * sizes[3]
    last = layout == torch.channels_last or pixels == 1
    step = step_of(sizes, strides, last)
    if step is None:
        return None
    plane = 1 if last else pixels
    of = step // plane
    # Kernels count from the image in which a tile begins to the last pixel of the tile, in 31 bits.
    fits = step % plane == 0 and of >= sizes[1] and (pixels + LARGEST_TILE) * of < 2**31
    return of if fits else None
