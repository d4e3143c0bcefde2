"""``selective_share`` (1x1) with many channels in Triton: matrix products with the gates at their ends.

    update_gates         r, r.s and z of both units      [t s] [W_r W_z]^T, sigmoid
    candidate_and_mix    h and t' of both units          [t r.s] [U W]^T, tanh, mix

r.s has a tensor of its own, [r.y of x's unit, r.x of y's], so that every factor of a product comes from
memory as it is; r itself is written only where gates are kept.

The backward is in :mod:`.triton_backward_products`. Names and layouts as in :mod:`.triton_tiles`. Every
kernel serves both units in one launch; programs that share a tile of pixels are neighbours, so that it comes
from the L2 cache. Where both units look alike (ALIKE) one stretch of code serves both: each stretch would
have shared memory of its own.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.selective_share.triton_tiles import (
    gate_channels,
    load_part,
    load_weight,
    mix,
    slots_of_x,
    slots_of_y,
    store_part,
    strips,
    strips_of,
    tiles_of,
)
from fused_ops.triton_math import last_first, sigmoid, tanh


@triton.jit
def steps_of(part, BLOCK_K: tl.constexpr):
    """Steps along the K channels of a part of :func:`sum_of_products`."""
    return (part[3] + BLOCK_K - 1) // BLOCK_K


@triton.jit
def later_if(is_later, part, later):
    """The part ``later`` if it is, else ``part``."""
    return (
        tl.where(is_later, later[0], part[0]), tl.where(is_later, later[1], part[1]),
        tl.where(is_later, later[2], part[2]), tl.where(is_later, later[3], part[3]),
        tl.where(is_later, later[4], part[4]), tl.where(is_later, later[5], part[5]),
    )  # fmt: skip


@triton.jit
def sum_of_products(
    parts, place, inside, n, N, EVEN: tl.constexpr, LAST: tl.constexpr, FORWARD: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """[P, N]: the sum of left [P, K] weight over parts (left_ptr, OF, first, K, weight_ptr, row_length).

    left are K channels from ``first`` on. FORWARD: the weight's rows ``n``, K columns; else its K rows,
    columns ``n``. One loop goes through all parts: with a loop for each the tensor cores would wait for
    memory at the beginning of every part.
    """
    steps = 0
    for index in tl.static_range(len(parts)):
        steps += steps_of(parts[index], BLOCK_K)
    total = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        part = parts[0]
        begin = 0
        end = steps_of(parts[0], BLOCK_K)
        for index in tl.static_range(1, len(parts)):
            is_later = step >= end
            part = later_if(is_later, part, parts[index])
            begin = tl.where(is_later, end, begin)
            end += steps_of(parts[index], BLOCK_K)
        left_ptr, OF, first, K, weight_ptr, row_length = part
        k = (step - begin) * BLOCK_K + tl.arange(0, BLOCK_K)
        left = load_part(left_ptr, place, inside, first + k, OF, first + K, EVEN, LAST)
        if FORWARD:
            right = load_weight(weight_ptr, row_length, n, k, N, K, EVEN, True)
        else:
            right = load_weight(weight_ptr, row_length, k, n, K, N, EVEN, False)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit
def unit_update_gates(
    index, t_ptr, s_ptr, gates_ptr, passed_ptr, W_r, W_z, at_r, at_z, at_passed, place, inside,
    T_OF: tl.constexpr, S_OF: tl.constexpr, G_OF: tl.constexpr, PASSED_OF: tl.constexpr,
    T: tl.constexpr, S: tl.constexpr, KEPT: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The index-th BLOCK_N channels of [r z], which begin with those of r."""
    EVEN: tl.constexpr = T % BLOCK_N == 0 and S % BLOCK_N == 0 and T % BLOCK_K == 0 and S % BLOCK_K == 0
    is_r = index < tiles_of(S, BLOCK_N)
    if is_r:
        weight_ptr, size, first = W_r, S, index * BLOCK_N
    else:
        weight_ptr, size, first = W_z, T, (index - tiles_of(S, BLOCK_N)) * BLOCK_N
    gate = sum_of_products(
        ((t_ptr, T_OF, 0, T, weight_ptr, T + S), (s_ptr, S_OF, 0, S, weight_ptr + T, T + S)),
        place, inside, first + tl.arange(0, BLOCK_N), size, EVEN, LAST, True, PRECISION,
        BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    WIDTH: tl.constexpr = BLOCK_N // strips_of(BLOCK_N)
    ends = strips(gate, BLOCK_P, BLOCK_N)
    for strip in tl.static_range(strips_of(BLOCK_N)):
        n = first + strip * WIDTH + tl.arange(0, WIDTH)
        value = sigmoid(ends[strip], FAST).to(passed_ptr.dtype.element_ty)
        if is_r:
            if KEPT:
                store_part(gates_ptr, value, place, inside, at_r, n, G_OF, S, EVEN, LAST)
            s = load_part(s_ptr, place, inside, n, S_OF, S, EVEN, LAST)
            passed = value.to(tl.float32) * s.to(tl.float32)
            store_part(passed_ptr, passed, place, inside, at_passed, n, PASSED_OF, S, EVEN, LAST)
        else:
            store_part(gates_ptr, value, place, inside, at_z, n, G_OF, T, EVEN, LAST)


@triton.jit
def update_gates(
    x_ptr, y_ptr, gates_ptr, passed_ptr, W_r_x, W_z_x, W_r_y, W_z_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEPT: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """r.s, z and, where gates are KEPT, r of both units. Grid: tiles of pixels, of [r z] of the units."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR, KEPT)
    PASSED_OF: tl.constexpr = CX + CY if PAIR else CY
    OF_UNIT: tl.constexpr = tiles_of(CX, BLOCK_N) + tiles_of(CY, BLOCK_N)
    TILES: tl.constexpr = 2 * OF_UNIT if PAIR else OF_UNIT
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF
    index = tl.program_id(0) % TILES
    place = (tl.program_id(0) // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    _, x_r, x_z = slots_of_x(CX, CY, KEPT)
    _, y_r, y_z = slots_of_y(CX, CY, KEPT)
    if ALIKE:
        if index < OF_UNIT:
            t_ptr, s_ptr, W_r, W_z, at_r, at_z, passed = x_ptr, y_ptr, W_r_x, W_z_x, x_r, x_z, 0
        else:
            t_ptr, s_ptr, W_r, W_z, at_r, at_z, passed = y_ptr, x_ptr, W_r_y, W_z_y, y_r, y_z, CY
        unit_update_gates(
            index % OF_UNIT, t_ptr, s_ptr, gates_ptr, passed_ptr, W_r, W_z, at_r, at_z, passed,
            place, inside, X_OF, Y_OF, G_OF, PASSED_OF, CX, CY, KEPT, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif index < OF_UNIT:
        unit_update_gates(
            index, x_ptr, y_ptr, gates_ptr, passed_ptr, W_r_x, W_z_x, x_r, x_z, 0,
            place, inside, X_OF, Y_OF, G_OF, PASSED_OF, CX, CY, KEPT, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_update_gates(
            index - OF_UNIT, y_ptr, x_ptr, gates_ptr, passed_ptr, W_r_y, W_z_y, y_r, y_z, CY,
            place, inside, Y_OF, X_OF, G_OF, PASSED_OF, CY, CX, KEPT, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip


@triton.jit
def unit_candidate_and_mix(
    index, t_ptr, t_out_ptr, gates_ptr, passed_ptr, W, U, at_h, at_z, at_passed, place, inside,
    T_OF: tl.constexpr, G_OF: tl.constexpr, PASSED_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    KEEP: tl.constexpr, KEPT: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The index-th BLOCK_N channels of h and t'."""
    EVEN: tl.constexpr = T % BLOCK_N == 0 and T % BLOCK_K == 0 and S % BLOCK_K == 0
    candidate = sum_of_products(
        ((t_ptr, T_OF, 0, T, U, T), (passed_ptr, PASSED_OF, at_passed, S, W, S)),
        place, inside, index * BLOCK_N + tl.arange(0, BLOCK_N), T, EVEN, LAST, True, PRECISION,
        BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    WIDTH: tl.constexpr = BLOCK_N // strips_of(BLOCK_N)
    ends = strips(candidate, BLOCK_P, BLOCK_N)
    for strip in tl.static_range(strips_of(BLOCK_N)):
        n = index * BLOCK_N + strip * WIDTH + tl.arange(0, WIDTH)
        h = tanh(ends[strip], FAST)
        if t_out_ptr is not None:
            z = load_part(gates_ptr, place, inside, at_z + n, G_OF, at_z + T, EVEN, LAST).to(tl.float32)
            t = load_part(t_ptr, place, inside, n, T_OF, T, EVEN, LAST)
            store_part(t_out_ptr, mix(t, h, z, KEEP), place, inside, 0, n, T, T, EVEN, LAST)
        if KEPT:
            store_part(gates_ptr, h, place, inside, at_h, n, G_OF, T, EVEN, LAST)


@triton.jit
def candidate_and_mix(
    x_ptr, y_ptr, x_out_ptr, y_out_ptr, gates_ptr, passed_ptr, W_x, U_x, W_y, U_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, KEPT: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """h (KEPT) and, where x_out_ptr is there, x' and y'. Grid: tiles of pixels x tiles of [x' y']."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR, KEPT)
    PASSED_OF: tl.constexpr = CX + CY if PAIR else CY
    TILES_X: tl.constexpr = tiles_of(CX, BLOCK_N)
    TILES: tl.constexpr = TILES_X + tiles_of(CY, BLOCK_N) if PAIR else TILES_X
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF
    index = tl.program_id(0) % TILES
    place = (last_first() // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    x_h, _, x_z = slots_of_x(CX, CY, KEPT)
    y_h, _, y_z = slots_of_y(CX, CY, KEPT)
    if ALIKE:
        if index < TILES_X:
            t_ptr, W, U, at_h, at_z, passed = x_ptr, W_x, U_x, x_h, x_z, 0
        else:
            t_ptr, W, U, at_h, at_z, passed = y_ptr, W_y, U_y, y_h, y_z, CY
        t_out_ptr = x_out_ptr
        if x_out_ptr is not None:
            t_out_ptr = x_out_ptr if index < TILES_X else y_out_ptr
        unit_candidate_and_mix(
            index % TILES_X, t_ptr, t_out_ptr, gates_ptr, passed_ptr, W, U, at_h, at_z, passed,
            place, inside, X_OF, G_OF, PASSED_OF, CX, CY, KEEP, KEPT, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif index < TILES_X:
        unit_candidate_and_mix(
            index, x_ptr, x_out_ptr, gates_ptr, passed_ptr, W_x, U_x, x_h, x_z, 0,
            place, inside, X_OF, G_OF, PASSED_OF, CX, CY, KEEP, KEPT, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_candidate_and_mix(
            index - TILES_X, y_ptr, y_out_ptr, gates_ptr, passed_ptr, W_y, U_y, y_h, y_z, CY,
            place, inside, Y_OF, G_OF, PASSED_OF, CY, CX, KEEP, KEPT, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
