"""The forward of ``selective_share`` (1x1) in Triton; :mod:`.triton_launch` chooses among the kernels.

    up to 64 channels     forward_resident: a program serves one unit, whose weights stay in shared memory
                          while it goes through many tiles of pixels; the gates stay on chip. The programs of
                          both units of a tile are neighbours, so x and y are read once from device memory
                          and once more from the L2 cache
    up to 128             forward_unit: the same for one tile, past which the weights stream
    more                  update_gates and candidate_and_mix of :mod:`.triton_products`

Which unit's tensors a program takes is chosen in each kernel anew: Inductor, which must know what a kernel
writes, does not follow pointers that a function returns. Names and layouts as in :mod:`.triton_tiles`. A
plane's size comes as ``units * UNIT``, from which the compiler learns how far pixels are aligned. Products
accumulate in float32; PRECISION is what float32 factors are rounded to before them ("ieee": not at all).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.selective_share.triton_tiles import (
    gate_channels,
    let_through,
    load_part,
    load_tile,
    load_weight,
    mix,
    slots_of_x,
    slots_of_y,
    store_part,
    store_tile,
    unit_weights,
)
from fused_ops.triton_math import sigmoid, tanh

# --- up to 64 channels --------------------------------------------------------------------------------------


@triton.jit
def unit_gates(t, s, weights, S: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr):
    """h [P, T], r [P, S] and z [P, T] of one unit, in float32; weights as of :func:`unit_weights`."""
    r_t, r_s, w, u, z_t, z_s = weights
    r = tl.dot(t, r_t, input_precision=PRECISION)
    r = sigmoid(tl.dot(s, r_s, r, input_precision=PRECISION), FAST)
    z = tl.dot(t, z_t, input_precision=PRECISION)
    z = sigmoid(tl.dot(s, z_s, z, input_precision=PRECISION), FAST)
    passed = let_through(r, s, tl.arange(0, s.shape[1]), S, s.shape[1] == S)
    h = tl.dot(t, u, input_precision=PRECISION)
    h = tanh(tl.dot(passed, w, h, input_precision=PRECISION), FAST)
    return h, r, z


@triton.jit
def resident_unit(
    t_ptr, s_ptr, t_out_ptr, gates_ptr, W_r, W, U, W_z, slots, first, step, tiles, pixels, plane,
    T_OF: tl.constexpr, S_OF: tl.constexpr, G_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One unit for every step-th tile of pixels from the first one on."""
    weights = unit_weights(W_r, W, U, W_z, T, S, BLOCK_T, BLOCK_S, True)
    for tile in tl.range(first, tiles, step, num_stages=STAGES):
        place = (tile * BLOCK_P, tl.arange(0, BLOCK_P), plane)
        inside = place[0] + place[1] < pixels
        t = load_tile(t_ptr, place, inside, 0, T_OF, T, BLOCK_T, LAST)
        s = load_tile(s_ptr, place, inside, 0, S_OF, S, BLOCK_S, LAST)
        h, r, z = unit_gates(t, s, weights, S, PRECISION, FAST)
        store_tile(t_out_ptr, mix(t, h, z, KEEP), place, inside, 0, T, T, BLOCK_T, LAST)
        if gates_ptr is not None:
            at_h, at_r, at_z = slots
            store_tile(gates_ptr, h, place, inside, at_h, G_OF, T, BLOCK_T, LAST)
            store_tile(gates_ptr, r, place, inside, at_r, G_OF, S, BLOCK_S, LAST)
            store_tile(gates_ptr, z, place, inside, at_z, G_OF, T, BLOCK_T, LAST)


@triton.jit
def forward_resident(
    x_ptr, y_ptr, x_out_ptr, y_out_ptr, gates_ptr, W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y,
    pixels, units, tiles,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x', with PAIR y', and where gates_ptr is there all gates. Grid: as many programs as run at once.

    Where both units look alike one stretch of code serves both, with half the shared memory.
    """
    plane = units * UNIT
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    UNITS: tl.constexpr = 2 if PAIR else 1
    of_x = tl.program_id(0) % UNITS == 0
    first, step = tl.program_id(0) // UNITS, tl.num_programs(0) // UNITS
    if PAIR and CX == CY and X_OF == Y_OF:
        if of_x:
            t_ptr, s_ptr, t_out_ptr, W_r, W, U, W_z = x_ptr, y_ptr, x_out_ptr, W_r_x, W_x, U_x, W_z_x
            at_h, at_r, at_z = slots_of_x(CX, CY)
        else:
            t_ptr, s_ptr, t_out_ptr, W_r, W, U, W_z = y_ptr, x_ptr, y_out_ptr, W_r_y, W_y, U_y, W_z_y
            at_h, at_r, at_z = slots_of_y(CX, CY)
        resident_unit(
            t_ptr, s_ptr, t_out_ptr, gates_ptr, W_r, W, U, W_z, (at_h, at_r, at_z), first, step, tiles,
            pixels, plane,
            X_OF, Y_OF, G_OF, CX, CY, KEEP, LAST, PRECISION, FAST, BLOCK_P, BLOCK_X, BLOCK_Y, STAGES,
        )  # fmt: skip
    elif of_x:
        resident_unit(
            x_ptr, y_ptr, x_out_ptr, gates_ptr, W_r_x, W_x, U_x, W_z_x, slots_of_x(CX, CY), first, step,
            tiles, pixels, plane,
            X_OF, Y_OF, G_OF, CX, CY, KEEP, LAST, PRECISION, FAST, BLOCK_P, BLOCK_X, BLOCK_Y, STAGES,
        )  # fmt: skip
    elif PAIR:
        resident_unit(
            y_ptr, x_ptr, y_out_ptr, gates_ptr, W_r_y, W_y, U_y, W_z_y, slots_of_y(CX, CY), first, step,
            tiles, pixels, plane,
            Y_OF, X_OF, G_OF, CY, CX, KEEP, LAST, PRECISION, FAST, BLOCK_P, BLOCK_Y, BLOCK_X, STAGES,
        )  # fmt: skip


# --- up to 128 channels -------------------------------------------------------------------------------------


@triton.jit
def stream_unit(
    t_ptr, s_ptr, t_out_ptr, gates_ptr, W_r, W, U, W_z, slots, pixels, plane,
    T_OF: tl.constexpr, S_OF: tl.constexpr, G_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One unit for a tile of pixels, BLOCK_N channels at a time.

    As each part of r is ready it gates its part of s, which enters h at once; then t and s pass by again,
    from the L2 cache, for the rest of h and for z.
    """
    EVEN: tl.constexpr = BLOCK_T == T and BLOCK_S == S
    # A last step beyond a tile would have no mask if EVEN.
    tl.static_assert(BLOCK_T % BLOCK_N == 0 and BLOCK_S % BLOCK_N == 0)
    at_h, at_r, at_z = slots
    place = (tl.program_id(0) // 2 * BLOCK_P, tl.arange(0, BLOCK_P), plane)
    inside = place[0] + place[1] < pixels
    t = load_tile(t_ptr, place, inside, 0, T_OF, T, BLOCK_T, LAST)
    s = load_tile(s_ptr, place, inside, 0, S_OF, S, BLOCK_S, LAST)
    lane_t = tl.arange(0, BLOCK_T)
    lane_s = tl.arange(0, BLOCK_S)
    h = tl.zeros((BLOCK_P, BLOCK_T), tl.float32)
    z = tl.zeros((BLOCK_P, BLOCK_T), tl.float32)
    for n in tl.range(0, BLOCK_S, BLOCK_N, num_stages=STAGES):
        part = n + tl.arange(0, BLOCK_N)
        r_t = load_weight(W_r, T + S, part, lane_t, S, T, EVEN, True)
        r_s = load_weight(W_r + T, T + S, part, lane_s, S, S, EVEN, True)
        w = load_weight(W, S, lane_t, part, T, S, EVEN, True)
        s_part = load_part(s_ptr, place, inside, part, S_OF, S, EVEN, LAST)
        r = tl.dot(t, r_t, input_precision=PRECISION)
        r = sigmoid(tl.dot(s, r_s, r, input_precision=PRECISION), FAST)
        if gates_ptr is not None:
            store_part(gates_ptr, r, place, inside, at_r, part, G_OF, S, EVEN, LAST)
        passed = let_through(r, s_part, part, S, EVEN)
        h = tl.dot(passed, w, h, input_precision=PRECISION)
    for k in tl.range(0, BLOCK_T, BLOCK_N, num_stages=STAGES):
        part = k + tl.arange(0, BLOCK_N)
        u = load_weight(U, T, lane_t, part, T, T, EVEN, True)
        z_t = load_weight(W_z, T + S, lane_t, part, T, T, EVEN, True)
        t_part = load_part(t_ptr, place, inside, part, T_OF, T, EVEN, LAST)
        h = tl.dot(t_part, u, h, input_precision=PRECISION)
        z = tl.dot(t_part, z_t, z, input_precision=PRECISION)
    for k in tl.range(0, BLOCK_S, BLOCK_N, num_stages=STAGES):
        part = k + tl.arange(0, BLOCK_N)
        z_s = load_weight(W_z + T, T + S, lane_t, part, T, S, EVEN, True)
        s_part = load_part(s_ptr, place, inside, part, S_OF, S, EVEN, LAST)
        z = tl.dot(s_part, z_s, z, input_precision=PRECISION)
    h = tanh(h, FAST)
    z = sigmoid(z, FAST)
    if gates_ptr is not None:
        store_tile(gates_ptr, h, place, inside, at_h, G_OF, T, BLOCK_T, LAST)
        store_tile(gates_ptr, z, place, inside, at_z, G_OF, T, BLOCK_T, LAST)
    t = load_tile(t_ptr, place, inside, 0, T_OF, T, BLOCK_T, LAST)
    store_tile(t_out_ptr, mix(t, h, z, KEEP), place, inside, 0, T, T, BLOCK_T, LAST)


@triton.jit
def forward_unit(
    x_ptr, y_ptr, x_out_ptr, y_out_ptr, gates_ptr, W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y,
    pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """x' or y' and the gates of that unit. Grid: two programs for each tile of BLOCK_P pixels.

    Where both units look alike one stretch of code serves both, with half the shared memory.
    """
    plane = units * UNIT
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    of_x = tl.program_id(0) % 2 == 0
    if PAIR and CX == CY and X_OF == Y_OF:
        if of_x:
            t_ptr, s_ptr, t_out_ptr, W_r, W, U, W_z = x_ptr, y_ptr, x_out_ptr, W_r_x, W_x, U_x, W_z_x
            at_h, at_r, at_z = slots_of_x(CX, CY)
        else:
            t_ptr, s_ptr, t_out_ptr, W_r, W, U, W_z = y_ptr, x_ptr, y_out_ptr, W_r_y, W_y, U_y, W_z_y
            at_h, at_r, at_z = slots_of_y(CX, CY)
        stream_unit(
            t_ptr, s_ptr, t_out_ptr, gates_ptr, W_r, W, U, W_z, (at_h, at_r, at_z), pixels, plane,
            X_OF, Y_OF, G_OF, CX, CY, KEEP, LAST, PRECISION, FAST, BLOCK_P, BLOCK_X, BLOCK_Y, BLOCK_N, STAGES,
        )  # fmt: skip
    elif of_x:
        stream_unit(
            x_ptr, y_ptr, x_out_ptr, gates_ptr, W_r_x, W_x, U_x, W_z_x, slots_of_x(CX, CY), pixels, plane,
            X_OF, Y_OF, G_OF, CX, CY, KEEP, LAST, PRECISION, FAST, BLOCK_P, BLOCK_X, BLOCK_Y, BLOCK_N, STAGES,
        )  # fmt: skip
    elif PAIR:
        stream_unit(
            y_ptr, x_ptr, y_out_ptr, gates_ptr, W_r_y, W_y, U_y, W_z_y, slots_of_y(CX, CY), pixels, plane,
            Y_OF, X_OF, G_OF, CY, CX, KEEP, LAST, PRECISION, FAST, BLOCK_P, BLOCK_Y, BLOCK_X, BLOCK_N, STAGES,
        )  # fmt: skip
