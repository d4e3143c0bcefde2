"""``selective_share`` (1x1) with many channels in Triton: matrix products with the gates at their ends.

    update_gates         r and z of both units           [t s] [W_r W_z]^T, sigmoid
    candidate_and_mix    h and t' of both units          [t r.s] [U W]^T, tanh, mix

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
    tiles_of,
)
from fused_ops.triton_math import sigmoid, tanh


@triton.jit
def add_product(
    total, left_ptr, place, inside, first_channel, weight_ptr, row_length, n,
    OF, K: tl.constexpr, N, EVEN: tl.constexpr, LAST: tl.constexpr, FORWARD: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """total [P, N] + left [P, K] weight; left are K channels from ``first_channel`` on.

    FORWARD: the weight's rows ``n``, K columns; else its K rows, columns ``n``.
    """
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        left = load_part(left_ptr, place, inside, first_channel + k, OF, first_channel + K, EVEN, LAST)
        if FORWARD:
            right = load_weight(weight_ptr, row_length, n, k, N, K, EVEN, True)
        else:
            right = load_weight(weight_ptr, row_length, k, n, K, N, EVEN, False)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit
def unit_update_gates(
    index, t_ptr, s_ptr, gates_ptr, W_r, W_z, at_r, at_z, place, inside,
    T_OF: tl.constexpr, S_OF: tl.constexpr, G_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The index-th BLOCK_N channels of [r z], which begin with those of r."""
    EVEN: tl.constexpr = T % BLOCK_N == 0 and S % BLOCK_N == 0 and T % BLOCK_K == 0 and S % BLOCK_K == 0
    if index < tiles_of(S, BLOCK_N):
        weight_ptr, size, slot, first = W_r, S, at_r, index * BLOCK_N
    else:
        weight_ptr, size, slot, first = W_z, T, at_z, (index - tiles_of(S, BLOCK_N)) * BLOCK_N
    n = first + tl.arange(0, BLOCK_N)
    gate = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    gate = add_product(
        gate, t_ptr, place, inside, 0, weight_ptr, T + S, n,
        T_OF, T, size, EVEN, LAST, True, PRECISION, BLOCK_K, STAGES,
    )  # fmt: skip
    gate = add_product(
        gate, s_ptr, place, inside, 0, weight_ptr + T, T + S, n,
        S_OF, S, size, EVEN, LAST, True, PRECISION, BLOCK_K, STAGES,
    )  # fmt: skip
    store_part(gates_ptr, sigmoid(gate, FAST), place, inside, slot, n, G_OF, size, EVEN, LAST)


@triton.jit
def update_gates(
    x_ptr, y_ptr, gates_ptr, W_r_x, W_z_x, W_r_y, W_z_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, WITH_H: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """r and z of both units into their slots of gates. Grid: tiles of pixels, of [r z] of the units."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR, WITH_H)
    OF_UNIT: tl.constexpr = tiles_of(CX, BLOCK_N) + tiles_of(CY, BLOCK_N)
    TILES: tl.constexpr = 2 * OF_UNIT if PAIR else OF_UNIT
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF
    index = tl.program_id(0) % TILES
    place = (tl.program_id(0) // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    _, x_r, x_z = slots_of_x(CX, CY, WITH_H)
    _, y_r, y_z = slots_of_y(CX, CY, WITH_H)
    if ALIKE:
        if index < OF_UNIT:
            t_ptr, s_ptr, W_r, W_z, at_r, at_z = x_ptr, y_ptr, W_r_x, W_z_x, x_r, x_z
        else:
            t_ptr, s_ptr, W_r, W_z, at_r, at_z = y_ptr, x_ptr, W_r_y, W_z_y, y_r, y_z
        unit_update_gates(
            index % OF_UNIT, t_ptr, s_ptr, gates_ptr, W_r, W_z, at_r, at_z, place, inside,
            X_OF, Y_OF, G_OF, CX, CY, LAST, PRECISION, FAST, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif index < OF_UNIT:
        unit_update_gates(
            index, x_ptr, y_ptr, gates_ptr, W_r_x, W_z_x, x_r, x_z, place, inside,
            X_OF, Y_OF, G_OF, CX, CY, LAST, PRECISION, FAST, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_update_gates(
            index - OF_UNIT, y_ptr, x_ptr, gates_ptr, W_r_y, W_z_y, y_r, y_z, place, inside,
            Y_OF, X_OF, G_OF, CY, CX, LAST, PRECISION, FAST, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip


@triton.jit
def unit_candidate_and_mix(
    index, t_ptr, s_ptr, t_out_ptr, gates_ptr, W, U, at_h, at_r, at_z, place, inside,
    T_OF: tl.constexpr, S_OF: tl.constexpr, G_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    KEEP: tl.constexpr, WITH_H: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The index-th BLOCK_N channels of h and t'."""
    EVEN: tl.constexpr = T % BLOCK_N == 0 and T % BLOCK_K == 0 and S % BLOCK_K == 0
    n = index * BLOCK_N + tl.arange(0, BLOCK_N)
    h = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    h = add_product(
        h, t_ptr, place, inside, 0, U, T, n, T_OF, T, T, EVEN, LAST, True, PRECISION, BLOCK_K, STAGES
    )  # fmt: skip
    for start in tl.range(0, S, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        s = load_part(s_ptr, place, inside, k, S_OF, S, EVEN, LAST)
        r = load_part(gates_ptr, place, inside, at_r + k, G_OF, at_r + S, EVEN, LAST)
        passed = (r.to(tl.float32) * s.to(tl.float32)).to(s.dtype)
        h = tl.dot(passed, load_weight(W, S, n, k, T, S, EVEN, True), h, input_precision=PRECISION)
    h = tanh(h, FAST)
    if WITH_H:
        store_part(gates_ptr, h, place, inside, at_h, n, G_OF, T, EVEN, LAST)
    if t_out_ptr is not None:
        z = load_part(gates_ptr, place, inside, at_z + n, G_OF, at_z + T, EVEN, LAST).to(tl.float32)
        t = load_part(t_ptr, place, inside, n, T_OF, T, EVEN, LAST)
        store_part(t_out_ptr, mix(t, h, z, KEEP), place, inside, 0, n, T, T, EVEN, LAST)


@triton.jit
def candidate_and_mix(
    x_ptr, y_ptr, x_out_ptr, y_out_ptr, gates_ptr, W_x, U_x, W_y, U_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, WITH_H: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """h (WITH_H) and, where x_out_ptr is there, x' and y'. Grid: tiles of pixels x tiles of [x' y']."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR, WITH_H)
    TILES_X: tl.constexpr = tiles_of(CX, BLOCK_N)
    TILES: tl.constexpr = TILES_X + tiles_of(CY, BLOCK_N) if PAIR else TILES_X
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF
    index = tl.program_id(0) % TILES
    place = (tl.program_id(0) // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    x_h, x_r, x_z = slots_of_x(CX, CY, WITH_H)
    y_h, y_r, y_z = slots_of_y(CX, CY, WITH_H)
    if ALIKE:
        if index < TILES_X:
            t_ptr, s_ptr, W, U, at_h, at_r, at_z = x_ptr, y_ptr, W_x, U_x, x_h, x_r, x_z
        else:
            t_ptr, s_ptr, W, U, at_h, at_r, at_z = y_ptr, x_ptr, W_y, U_y, y_h, y_r, y_z
        t_out_ptr = x_out_ptr
        if x_out_ptr is not None:
            t_out_ptr = x_out_ptr if index < TILES_X else y_out_ptr
        unit_candidate_and_mix(
            index % TILES_X, t_ptr, s_ptr, t_out_ptr, gates_ptr, W, U, at_h, at_r, at_z, place, inside,
            X_OF, Y_OF, G_OF, CX, CY, KEEP, WITH_H, LAST, PRECISION, FAST, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif index < TILES_X:
        unit_candidate_and_mix(
            index, x_ptr, y_ptr, x_out_ptr, gates_ptr, W_x, U_x, x_h, x_r, x_z, place, inside,
            X_OF, Y_OF, G_OF, CX, CY, KEEP, WITH_H, LAST, PRECISION, FAST, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_candidate_and_mix(
            index - TILES_X, y_ptr, x_ptr, y_out_ptr, gates_ptr, W_y, U_y, y_h, y_r, y_z, place, inside,
            Y_OF, X_OF, G_OF, CY, CX, KEEP, WITH_H, LAST, PRECISION, FAST, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
