"""How norms are cut into the Triton kernels' tiles and programs (no kernel runs)."""

from __future__ import annotations

import pytest
import torch

from fused_ops import tuning
from fused_ops.norm_act.triton_plan import (
    Geometry,
    finish_constants,
    partial_chunks,
    row_grid,
    row_plan,
    tile_plan,
)
from fused_ops.triton_support import CARDS, ceil_div

SHAPES = [(64, 64, 96, 96), (64, 128, 48, 48), (64, 256, 24, 24), (2, 256, 96, 96)]


def cuts() -> list[tuple[str, torch.memory_format, tuple[int, ...], int]]:
    return [
        (architecture, layout, shape, groups)
        for architecture in CARDS
        for layout in (torch.contiguous_format, torch.channels_last)
        for shape in SHAPES
        for groups in (0, shape[1])
    ]


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_parts_of_rows_are_measured_in_one_wave_without_idle_tiles(way: str, itemsize: int) -> None:
    """There were chunks of 8 tiles for rows that one tile holds, and programs that waited for a place."""
    for architecture, layout, shape, groups in cuts():
        x = torch.empty(shape, device="meta", memory_format=layout)
        g = Geometry.of(x, groups, False)
        card, limits = CARDS[architecture], tuning.choose(architecture, f"norm_act.{way}", itemsize=itemsize)
        plan = tile_plan(g, itemsize, limits)
        chunks = partial_chunks(g, plan, limits, card.processors)
        tiles = ceil_div(g.length, plan.block_k)
        assert chunks.per_sample <= tiles  # no chunk is empty
        assert tiles * plan.block_k <= 1.125 * g.length
        blocks = chunks.grid[0] // chunks.per_sample
        assert chunks.grid[0] <= max(blocks, limits["per_processor"] * card.processors)


def test_parts_are_merged_by_many_programs_in_few_steps() -> None:
    for architecture, layout, shape, groups in cuts():
        x = torch.empty(shape, device="meta", memory_format=layout)
        g = Geometry.of(x, groups, False)
        limits = tuning.choose(architecture, "norm_act.backward", itemsize=2)
        chunks = partial_chunks(g, tile_plan(g, 2, limits), limits, CARDS[architecture].processors)
        constants = finish_constants(g, chunks.per_sample)
        assert ceil_div(chunks.per_sample, constants["BLOCK_R"]) <= 2
        if chunks.per_sample > 16:
            assert row_grid(g, constants["SPAN"]) == (g.repeats * g.channels // 8,)


def test_what_is_read_once_in_16_bits() -> None:
    """Planes of 96 x 96, 9,216 elements of 16,384; not 16 adjacent channels of 24 x 24, of 32 bytes each."""
    for way in ("forward", "backward"):
        limits = tuning.choose("sm_90", f"norm_act.{way}", itemsize=2)
        x = torch.empty((64, 64, 96, 96), device="meta")
        assert row_plan(Geometry.of(x, 64, False), 2, limits) is not None
        small = torch.empty((64, 256, 24, 24), device="meta").contiguous(memory_format=torch.channels_last)
        assert row_plan(Geometry.of(small, 256, False), 2, limits) is None
