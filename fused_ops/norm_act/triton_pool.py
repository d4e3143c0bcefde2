"""``norm_act`` with 2 x 2 max-pooling in Triton: kernels, and which are started for a call.

The statistics come from the kernels of :mod:`.triton_kernels`; tiles, rows and layouts are as there, with the
pooled pixels for elements. The un-pooled result is not written; the backward's :func:`unpool` writes the
gradient of z, which is also that of a residual.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_ops import tuning
from fused_ops.activations import BY_INDEX
from fused_ops.norm_act.layout import memory_format, statistics_dtype, statistics_size
from fused_ops.norm_act.triton_backward_kernels import load_row_values
from fused_ops.norm_act.triton_kernels import (
    channels_of_program,
    load_tile,
    locate,
    offsets,
    sample_and_chunk,
)
from fused_ops.norm_act.triton_launch import affine_of, measure, measuring_launches
from fused_ops.norm_act.triton_plan import Chunks, Geometry, tile_plan
from fused_ops.triton_math import activate, derivative_from_output, last_first
from fused_ops.triton_support import Card, Planned, card_for, on_device, run

# --- kernels ------------------------------------------------------------------------------------------------


@triton.jit
def offsets_of_places(
    sample, chunk, samples, channel, inside_c, height, units, step,
    UNIT: tl.constexpr, ODD: tl.constexpr, BATCH: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Where the four pixels of each square lie: offsets and a mask, either [C, K], of the first of them.

    As planes both columns are told together, [C, 2 K], so that whole lines are read and written: a line is
    units * UNIT pixels, and ODD one more, long.
    """
    width = units * UNIT + ODD
    if CHANNELS_LAST:
        wide = units * (UNIT // 2)
        pooled = (height // 2) * wide
        k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = k < (samples * pooled if BATCH else pooled)
        of_sample, pixel = locate(sample, k, pooled, BATCH, False)
        first = pixel // wide * 2 * width + pixel % wide * 2
    else:
        pairs = (height // 2) * units * UNIT
        k = chunk * (2 * BLOCK_K) + tl.arange(0, 2 * BLOCK_K)
        inside = k < (samples * pairs if BATCH else pairs)
        # From k at once, or the compiler loses sight of what is adjacent.
        of_sample, line = locate(sample, k // (units * UNIT), height // 2, BATCH, False)
        first = line * 2 * width + k % (units * UNIT)
    at = offsets(of_sample, channel, first, height * width, step, CHANNELS_LAST)
    return at, inside_c[:, None] & inside[None, :]


@triton.jit
def load_places(pointer, at, mask, line, step, CHANNELS_LAST: tl.constexpr):
    """The four pixels of each square, row by row; the next line lies ``line`` elements further."""
    if CHANNELS_LAST:
        a, b = load_tile(pointer, at, mask), load_tile(pointer, at + step, mask)
        c, d = load_tile(pointer, at + line, mask), load_tile(pointer, at + line + step, mask)
    else:
        a, b = columns(load_tile(pointer, at, mask))
        c, d = columns(load_tile(pointer, at + line, mask))
    return a, b, c, d


@triton.jit
def columns(tile):
    """Even and odd columns [C, K] of [C, 2 K]."""
    return tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1] // 2, 2)))


@triton.jit
def take_larger(best, winner, z, place: tl.constexpr):
    larger = (z > best) | (z != z)
    return tl.where(larger, z, best), tl.where(larger, place, winner)


@triton.jit
def pool_apply(
    x_ptr, residual_ptr, gamma_ptr, beta_ptr, y_ptr, winner_ptr, mean_ptr, var_ptr, chunks,
    samples, channels, height, units, x_step, residual_step, y_step, gamma_step, beta_step, eps, slope,
    UNIT: tl.constexpr, ODD: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr,
    EVEN_C: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y and the winners. Grid: chunks of BLOCK_K pooled pixels over all samples x blocks of channels."""
    width = units * UNIT + ODD
    pooled = (height // 2) * units * (UNIT // 2)
    channel, inside_c, row = channels_of_program(last_first(), channels, BLOCK_C, BLOCK_C, EVEN_C)
    sample, chunk = sample_and_chunk(row, chunks, BATCH)
    mean, rstd, gamma, beta = load_row_values(
        mean_ptr, var_ptr, gamma_ptr, beta_ptr, sample, channel, channels, inside_c, gamma_step, beta_step,
        eps, SPAN, BATCH, WHOLE,
    )  # fmt: skip
    at, inside = offsets_of_places(
        sample, chunk, samples, channel, inside_c, height, units, x_step, UNIT, ODD, BATCH, CHANNELS_LAST,
        BLOCK_K,
    )  # fmt: skip
    line = tl.cast(width, tl.int64) * (x_step if CHANNELS_LAST else 1)
    a, b, c, d = load_places(x_ptr, at, inside, line, x_step, CHANNELS_LAST)
    scale = rstd * gamma
    a, b = (a - mean) * scale + beta, (b - mean) * scale + beta
    c, d = (c - mean) * scale + beta, (d - mean) * scale + beta
    if residual_ptr is not None:
        at, inside = offsets_of_places(
            sample, chunk, samples, channel, inside_c, height, units, residual_step, UNIT, ODD, BATCH,
            CHANNELS_LAST, BLOCK_K,
        )  # fmt: skip
        line = tl.cast(width, tl.int64) * (residual_step if CHANNELS_LAST else 1)
        e, f, g, h = load_places(residual_ptr, at, inside, line, residual_step, CHANNELS_LAST)
        a, b, c, d = a + e, b + f, c + g, d + h
    best, winner = take_larger(a, tl.zeros((BLOCK_C, BLOCK_K), tl.int32), b, 1)
    best, winner = take_larger(best, winner, c, 2)
    best, winner = take_larger(best, winner, d, 3)
    k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = inside_c[:, None] & (k < (samples * pooled if BATCH else pooled))[None, :]
    of_sample, pixel = locate(sample, k, pooled, BATCH, CHANNELS_LAST)
    y_at = offsets(of_sample, channel, pixel, pooled, y_step, CHANNELS_LAST)
    tl.store(y_ptr + y_at, activate(best, slope, ACTIVATION).to(y_ptr.dtype.element_ty), mask=mask)
    if winner_ptr is not None:
        tl.store(winner_ptr + y_at, winner.to(tl.uint8), mask=mask)


@triton.jit
def unpool_kernel(
    grad_ptr, y_ptr, winner_ptr, grad_z_ptr, chunks, samples, channels, height, units, grad_step, y_step,
    winner_step, grad_z_step, slope,
    UNIT: tl.constexpr, ODD: tl.constexpr, EVEN_C: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    ACTIVATION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of z, at all pixels that lie in a square. Grid as in pool_apply, over the batch."""
    width = units * UNIT + ODD
    pooled = (height // 2) * units * (UNIT // 2)
    channel, inside_c, chunk = channels_of_program(last_first(), channels, BLOCK_C, BLOCK_C, EVEN_C)
    k = chunk * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = inside_c[:, None] & (k < samples * pooled)[None, :]
    sample, pixel = locate(0, k, pooled, True, CHANNELS_LAST)
    grad = load_tile(grad_ptr, offsets(sample, channel, pixel, pooled, grad_step, CHANNELS_LAST), mask)
    if y_ptr is not None:
        y = load_tile(y_ptr, offsets(sample, channel, pixel, pooled, y_step, CHANNELS_LAST), mask)
        grad *= derivative_from_output(y, slope, ACTIVATION)
    winner_at = offsets(sample, channel, pixel, pooled, winner_step, CHANNELS_LAST)
    winner = tl.load(winner_ptr + winner_at, mask=mask, other=0).to(tl.int32)
    at, inside = offsets_of_places(
        0, chunk, samples, channel, inside_c, height, units, grad_z_step, UNIT, ODD, True, CHANNELS_LAST,
        BLOCK_K,
    )  # fmt: skip
    line = tl.cast(width, tl.int64) * (grad_z_step if CHANNELS_LAST else 1)
    for row in tl.static_range(2):
        left = tl.where(winner == 2 * row, grad, 0.0).to(grad_z_ptr.dtype.element_ty)
        right = tl.where(winner == 2 * row + 1, grad, 0.0).to(grad_z_ptr.dtype.element_ty)
        of_row = grad_z_ptr + at + row * line
        if CHANNELS_LAST:
            tl.store(of_row, left, mask=inside)
            tl.store(of_row + grad_z_step, right, mask=inside)
        else:
            tl.store(of_row, tl.interleave(left, right), mask=inside)


# --- launches -----------------------------------------------------------------------------------------------


def forward(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    groups: int,
    eps: float,
    activation: int,
    slope: float,
    need_winner: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``pooled.norm_act_pool`` in Triton."""
    given = mean is not None and var is not None
    g = Geometry.of(x, groups, given)
    p = _pooled(g, x.size(2) // 2 * (x.size(3) // 2))
    card = card_for(x.device)
    shape = (*x.shape[:2], x.size(2) // 2, x.size(3) // 2)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=g.format)
    winner = torch.empty_like(y, dtype=torch.uint8) if need_winner else None
    height, width = x.size(2), x.size(3)
    (x, x_step), (residual, residual_step) = g.rows(x), g.rows(residual)  # type: ignore[assignment]
    (gamma, gamma_step), (beta, beta_step) = affine_of(gamma), affine_of(beta)
    found = [
        x.new_empty(0 if given else statistics_size(x, groups), dtype=statistics_dtype(x.dtype))
        for _ in range(2)
    ]
    used_mean, used_var = (found[0], found[1]) if mean is None or var is None else (mean, var)
    with on_device(x):
        if not given:
            measuring = measuring_launches(card, x.element_size(), g)
            measure(measuring, x, x_step, None, None, used_mean, used_var)
        run(
            _pool_launch(card, x.element_size(), g, p, height, width, activation),
            x, residual, gamma, beta, y, winner, used_mean, used_var,
            after=(x_step, residual_step, p.dense_step, gamma_step, beta_step, eps, slope),
        )  # fmt: skip
    return y, found[0], found[1], x.new_empty(0, dtype=torch.uint8) if winner is None else winner


@tuning.remembered
def _pool_launch(
    card: Card, itemsize: int, g: Geometry, p: Geometry, height: int, width: int, activation: int
) -> Planned:  # fmt: skip
    plan = tile_plan(p, itemsize, tuning.choose(card.architecture, "norm_act.forward", itemsize=itemsize))
    chunks = Chunks.of(p, plan)
    units, line = _line(width)
    constants = {
        **line, "BATCH": g.batch, "WHOLE": g.whole, "SPAN": g.span, "CHANNELS_LAST": g.channels_last,
        "ACTIVATION": activation, **plan.constants(),
    }  # fmt: skip
    return Planned(
        pool_apply, chunks.grid, (chunks.per_sample, g.samples, g.channels, height, units), constants
    )


def unpool(
    grad: Tensor, y: Tensor | None, winner: Tensor, height: int, width: int, activation: int, slope: float
) -> Tensor:
    """``pooled.norm_act_pool_backward`` in Triton."""
    shape = (*grad.shape[:2], height, width)
    layout = memory_format(winner)
    last = layout == torch.channels_last or height * width == 1
    full = Geometry(grad.size(0), grad.size(1), height * width, last, layout, True, 1)
    p = _pooled(full, grad.size(2) * grad.size(3))
    grad_z = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
    if height % 2 or width % 2:
        grad_z.zero_()
    if BY_INDEX[activation].backward_needs == "nothing":
        y = None
    (grad, grad_step), (y, y_step), (winner, winner_step) = p.rows(grad), p.rows(y), p.rows(winner)  # type: ignore[assignment]
    with on_device(grad):
        run(
            _unpool_launch(card_for(grad.device), grad.element_size(), p, height, width, activation),
            grad, y, winner, grad_z, after=(grad_step, y_step, winner_step, full.dense_step, slope),
        )  # fmt: skip
    return grad_z


@tuning.remembered
def _unpool_launch(
    card: Card, itemsize: int, p: Geometry, height: int, width: int, activation: int
) -> Planned:  # fmt: skip
    plan = tile_plan(p, itemsize, tuning.choose(card.architecture, "norm_act.backward", itemsize=itemsize))
    chunks = Chunks.of(p, plan)
    units, line = _line(width)
    constants = {**line, "CHANNELS_LAST": p.channels_last, "ACTIVATION": activation, **plan.constants()}
    sizes = (chunks.per_sample, p.samples, p.channels, height, units)
    return Planned(unpool_kernel, chunks.grid, sizes, constants)


def _line(width: int) -> tuple[int, dict[str, int]]:
    """The length of a line as the kernels take it: so many units, with what the compiler is told of them."""
    pairs = width // 2 * 2
    unit = math.gcd(pairs, 16)
    return pairs // unit, {"UNIT": unit, "ODD": width - pairs}


def _pooled(g: Geometry, plane: int) -> Geometry:
    """The geometry of the pooled pixels; single ones lie as the full planes do."""
    return Geometry(g.samples, g.channels, plane, g.channels_last, g.format, g.batch, g.span)
