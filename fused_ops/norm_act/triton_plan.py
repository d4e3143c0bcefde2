"""How a call of ``norm_act`` is cut into tiles and programs for the kernels of :mod:`.triton_kernels`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_ops.norm_act.layout import memory_format
from fused_ops.triton_support import ceil_div, lay_out, next_power_of_two


class Geometry(NamedTuple):
    """How a call sees its large tensors, and what one program normalizes together."""

    samples: int
    channels: int
    plane: int
    channels_last: bool
    format: torch.memory_format
    batch: bool  # rows reach over the samples
    span: int  # channels of a row

    @classmethod
    def of(cls, x: Tensor, groups: int, given: bool) -> Geometry:
        plane = math.prod(x.shape[2:])
        layout = memory_format(x)
        batch = given or not groups
        span = 1 if batch else x.size(1) // groups
        # Single pixels lie as in channels_last, whatever the format is called.
        last = layout != torch.contiguous_format or plane == 1
        return cls(x.size(0), x.size(1), plane, last, layout, batch, span)

    @property
    def length(self) -> int:
        """Elements of one channel of a row."""
        return self.plane * self.samples // self.repeats

    @property
    def repeats(self) -> int:
        """How often all channels are gone through."""
        return 1 if self.batch else self.samples

    @property
    def whole(self) -> bool:
        return self.span > 1

    @property
    def statistics(self) -> int:
        return self.channels if self.batch else self.samples * self.channels // self.span

    def rows(self, tensor: Tensor | None) -> tuple[Tensor | None, int]:
        """The tensor and its step, see triton_kernels; a copy where it lies otherwise."""
        if tensor is None:
            return None, 0
        return lay_out(tensor, self.channels_last, self.format)

    @property
    def dense_step(self) -> int:
        return self.channels if self.channels_last else self.channels * self.plane

    def sizes(self) -> tuple[int, int, int]:
        """samples, channels and units as the kernels take them."""
        return self.samples, self.channels, self.plane // self.unit

    @property
    def unit(self) -> int:
        return math.gcd(self.plane, 16)

    def constants(self) -> dict[str, Any]:
        return {"UNIT": self.unit, "BATCH": self.batch, "WHOLE": self.whole}


@dataclass(frozen=True)
class Plan:
    """The shape of a kernel's tiles and of its grid."""

    block_c: int
    block_k: int
    span: int
    warps: int
    even: bool

    def constants(self) -> dict[str, Any]:
        blocks = {"BLOCK_C": self.block_c, "BLOCK_K": self.block_k, "EVEN_C": self.even}
        return {**blocks, "num_warps": self.warps}

    def constants_of_tiles(self, g: Geometry) -> dict[str, Any]:
        """For the kernels that see a part of each row."""
        return {**self.constants(), "EVEN_K": g.length % self.block_k == 0}


def row_plan(g: Geometry, itemsize: int, limits: Mapping[str, int]) -> Plan | None:
    """Tiles that hold whole rows, or None where a row is too long for that."""
    block_k = next_power_of_two(g.length)
    if g.whole:
        block_c, span = next_power_of_two(g.span), g.span
    else:
        # Adjacent channels share memory sectors (32 bytes) in channels_last; short planes share a program.
        least, most = (32 // itemsize, 128 // itemsize) if g.channels_last else (1, 64)
        wanted = min(max(least, limits["wanted"] // block_k), most)
        block_c = span = min(wanted, next_power_of_two(g.channels))
    if block_c * block_k > limits["row_last" if g.channels_last else "row"]:
        return None
    even = span == block_c and g.channels % span == 0
    return Plan(block_c, block_k, span, _warps(block_c * block_k, limits["row_per_thread"]), even)


def tile_plan(g: Geometry, itemsize: int, limits: Mapping[str, int]) -> Plan:
    """Tiles of part of a row, of full memory transactions."""
    line = 128 // itemsize
    if g.channels_last:
        block_c = min(next_power_of_two(g.channels), line)
        block_k = min(limits["tile"] // block_c, next_power_of_two(g.length))
    else:
        block_k = min(limits["tile"], next_power_of_two(g.length))
        while block_k > line and -g.length % block_k > g.length // 8:  # so many elements would lie beyond
            block_k //= 2
        block_c = min(next_power_of_two(g.channels), limits["tile"] // block_k)
    even = g.channels % block_c == 0
    return Plan(block_c, block_k, block_c, _warps(block_c * block_k, limits["per_thread"]), even)


def _warps(elements: int, per_thread: int) -> int:
    return max(1, min(16, elements // (32 * per_thread)))


def row_grid(g: Geometry, span: int) -> tuple[int]:
    return (ceil_div(g.channels, span) * g.repeats,)


@dataclass(frozen=True)
class Chunks:
    """How the tiles of rows are dealt out to the kernels that see part of a row, in turn to each chunk."""

    per_sample: int
    rows: int  # of the partial results
    grid: tuple[int]

    @classmethod
    def of(cls, g: Geometry, plan: Plan, programs: int | None = None) -> Chunks:
        """Chunks of one tile, or of as many as leave no more than so many programs where there are more."""
        tiles_of_row = ceil_div(g.length, plan.block_k)
        blocks = g.repeats * ceil_div(g.channels, plan.block_c)
        tiles = 1 if programs is None else ceil_div(tiles_of_row, max(1, programs // blocks))
        per_sample = ceil_div(tiles_of_row, tiles)
        return cls(per_sample, per_sample * g.repeats, (per_sample * blocks,))


def partial_chunks(g: Geometry, plan: Plan, limits: Mapping[str, int], processors: int) -> Chunks:
    """Chunks for the kernels that make partial results: programs for every processor, and few results."""
    return Chunks.of(g, plan, limits["per_processor"] * processors)


def finish_constants(g: Geometry, rows: int) -> dict[str, Any]:
    """Tiles for the kernels that merge ``rows`` partial results of each row."""
    if g.whole:
        span = g.span
    else:  # 8 channels fill a memory sector: many programs, each of which waits for few loads
        span = min(next_power_of_two(g.channels), min(64, max(8, 256 // next_power_of_two(rows))))
    block_c = next_power_of_two(span)
    block_r = max(1, min(next_power_of_two(rows), 4096 // block_c, 512))
    even = span == block_c and g.channels % span == 0
    return {
        "BATCH": g.batch, "WHOLE": g.whole, "SPAN": span, "EVEN_C": even, "BLOCK_C": block_c,
        "BLOCK_R": block_r, "num_warps": max(1, min(8, block_c * block_r // 256)),
    }  # fmt: skip
