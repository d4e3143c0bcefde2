"""The gradients of the weights of ``selective_share`` (1x1) in Triton.

    weight_gradients_unit   up to 64 channels, after input_gradients_pair: the gradients of all weights of a
                            unit, kept in registers while a program goes through many tiles; the gradients
                            before the gates are made again but for those before r, and where there are no
                            gates (gates_ptr is None) all of them and the gates
    weight_gradients        any number: products over pixels of the gradients before the gates (a_), which the
                            kernels for x and y left, with t, s and r.s

Both deal the tiles of pixels out to chunks, one program each; add_weight_parts adds the chunks in a fixed
order, so the same call gives the same bits. Names and layouts as in :mod:`.triton_tiles`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.selective_share.triton_backward_kernels import before_h_and_z, before_reset
from fused_ops.selective_share.triton_kernels import unit_gates
from fused_ops.selective_share.triton_tiles import (
    gate_channels,
    load_part,
    load_tile,
    load_weight,
    passed_slot,
    pre_channels,
    reset_channels,
    slots_of_x,
    slots_of_y,
    tiles_of,
    unit_weights,
)


@triton.jit
def store_weight(
    part_ptr, value, row_length, OUT: tl.constexpr, IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    out, into = tl.arange(0, BLOCK_OUT)[:, None], tl.arange(0, BLOCK_IN)[None, :]
    tl.store(part_ptr + out * row_length + into, value, mask=(out < OUT) & (into < IN))


@triton.jit
def unit_weight_gradients(
    t_ptr, s_ptr, g_ptr, gates_ptr, grad_gates_ptr, before_r_ptr, part_ptr, W_r, W, U, W_z, slots, before_r,
    chunk, chunks, tiles, pixels, plane,
    T_OF: tl.constexpr, S_OF: tl.constexpr, GRAD_OF: tl.constexpr, G_OF: tl.constexpr, R_OF: tl.constexpr,
    T: tl.constexpr, S: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    at_h, at_r, at_z = slots
    if gates_ptr is None:
        EVEN: tl.constexpr = BLOCK_T == T and BLOCK_S == S
        w = load_weight(W, S, tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S), T, S, EVEN, False)
        weights = unit_weights(W_r, W, U, W_z, T, S, BLOCK_T, BLOCK_S, True)
    r_t = tl.zeros((BLOCK_S, BLOCK_T), tl.float32)
    r_s = tl.zeros((BLOCK_S, BLOCK_S), tl.float32)
    of_w = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    of_u = tl.zeros((BLOCK_T, BLOCK_T), tl.float32)
    z_t = tl.zeros((BLOCK_T, BLOCK_T), tl.float32)
    z_s = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    for tile in tl.range(chunk, tiles, chunks, num_stages=STAGES):
        place = (tile * BLOCK_P, tl.arange(0, BLOCK_P), plane)
        inside = place[0] + place[1] < pixels
        t = load_tile(t_ptr, place, inside, 0, T_OF, T, BLOCK_T, LAST)
        s = load_tile(s_ptr, place, inside, 0, S_OF, S, BLOCK_S, LAST)
        g = load_tile(g_ptr, place, inside, 0, GRAD_OF, T, BLOCK_T, LAST)
        if gates_ptr is None:
            h, r, z = unit_gates(t, s, weights, S, PRECISION, FAST)
        else:
            h = load_tile(gates_ptr, place, inside, at_h, G_OF, T, BLOCK_T, LAST)
            r = load_tile(gates_ptr, place, inside, at_r, G_OF, S, BLOCK_S, LAST).to(tl.float32)
            z = load_tile(gates_ptr, place, inside, at_z, G_OF, T, BLOCK_T, LAST)
        a_h, a_z, _ = before_h_and_z(
            g, t, h, z, grad_gates_ptr, at_h, at_z, place, inside, G_OF, T, KEEP, LAST, BLOCK_T
        )  # fmt: skip
        if gates_ptr is None:
            grad_r = None
            if grad_gates_ptr is not None:
                grad_r = load_tile(grad_gates_ptr, place, inside, at_r, G_OF, S, BLOCK_S, LAST)
            a_r = before_reset(tl.dot(a_h, w, input_precision=PRECISION), s, r, grad_r)
        else:
            a_r = load_tile(before_r_ptr, place, inside, before_r, R_OF, S, BLOCK_S, LAST)
        a_h = tl.trans(a_h)
        a_r = tl.trans(a_r)
        a_z = tl.trans(a_z)
        passed = (r * s.to(tl.float32)).to(t.dtype)
        of_w = tl.dot(a_h, passed, of_w, input_precision=PRECISION)
        of_u = tl.dot(a_h, t, of_u, input_precision=PRECISION)
        r_t = tl.dot(a_r, t, r_t, input_precision=PRECISION)
        r_s = tl.dot(a_r, s, r_s, input_precision=PRECISION)
        z_t = tl.dot(a_z, t, z_t, input_precision=PRECISION)
        z_s = tl.dot(a_z, s, z_s, input_precision=PRECISION)
    BOTH: tl.constexpr = T + S
    store_weight(part_ptr, r_t, BOTH, S, T, BLOCK_S, BLOCK_T)
    store_weight(part_ptr + T, r_s, BOTH, S, S, BLOCK_S, BLOCK_S)
    store_weight(part_ptr + S * BOTH, of_w, S, T, S, BLOCK_T, BLOCK_S)
    store_weight(part_ptr + S * BOTH + T * S, of_u, T, T, T, BLOCK_T, BLOCK_T)
    store_weight(part_ptr + BOTH * BOTH, z_t, BOTH, T, T, BLOCK_T, BLOCK_T)
    store_weight(part_ptr + BOTH * BOTH + T, z_s, BOTH, T, S, BLOCK_T, BLOCK_S)


@triton.jit
def weight_gradients_unit(
    x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, before_r_ptr, part_ptr,
    W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y, pixels, units, tiles,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of a unit's weights over a chunk of tiles, part as of weight_gradients.

    Grid: chunks x units.
    """
    plane = units * UNIT
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    R_OF: tl.constexpr = reset_channels(CX, CY, PAIR)
    SIZE_X: tl.constexpr = (CX + CY) * (2 * CX + CY)
    SIZE: tl.constexpr = SIZE_X + ((CX + CY) * (CX + 2 * CY) if PAIR else 0)
    UNITS: tl.constexpr = 2 if PAIR else 1
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF and GX_OF == GY_OF
    chunk, chunks = tl.program_id(0) // UNITS, tl.num_programs(0) // UNITS
    of_x = tl.program_id(0) % UNITS == 0
    part_ptr += chunk.to(tl.int64) * SIZE
    if ALIKE:
        if of_x:
            t_ptr, s_ptr, g_ptr, before_r = x_ptr, y_ptr, grad_x_out_ptr, 0
            W_r, W, U, W_z = W_r_x, W_x, U_x, W_z_x
            at_h, at_r, at_z = slots_of_x(CX, CY)
        else:
            t_ptr, s_ptr, g_ptr, before_r = y_ptr, x_ptr, grad_y_out_ptr, CY
            W_r, W, U, W_z = W_r_y, W_y, U_y, W_z_y
            at_h, at_r, at_z = slots_of_y(CX, CY)
        part_ptr += tl.program_id(0) % UNITS * SIZE_X
        unit_weight_gradients(
            t_ptr, s_ptr, g_ptr, gates_ptr, grad_gates_ptr, before_r_ptr, part_ptr, W_r, W, U, W_z,
            (at_h, at_r, at_z), before_r, chunk, chunks, tiles, pixels, plane,
            X_OF, Y_OF, GX_OF, G_OF, R_OF, CX, CY, KEEP, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_X, BLOCK_Y, STAGES,
        )  # fmt: skip
    elif of_x:
        unit_weight_gradients(
            x_ptr, y_ptr, grad_x_out_ptr, gates_ptr, grad_gates_ptr, before_r_ptr, part_ptr,
            W_r_x, W_x, U_x, W_z_x, slots_of_x(CX, CY), 0, chunk, chunks, tiles, pixels, plane,
            X_OF, Y_OF, GX_OF, G_OF, R_OF, CX, CY, KEEP, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_X, BLOCK_Y, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_weight_gradients(
            y_ptr, x_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, before_r_ptr, part_ptr + SIZE_X,
            W_r_y, W_y, U_y, W_z_y, slots_of_y(CX, CY), CY, chunk, chunks, tiles, pixels, plane,
            Y_OF, X_OF, GY_OF, G_OF, R_OF, CY, CX, KEEP, LAST, PRECISION, FAST,
            BLOCK_P, BLOCK_Y, BLOCK_X, STAGES,
        )  # fmt: skip


# --- any number of channels ---------------------------------------------------------------------------------


@triton.jit
def unit_weight_gradient(
    index, t_ptr, s_ptr, pre_ptr, part_ptr, slots, passed, chunk, chunks, steps, pixels, plane,
    T_OF: tl.constexpr, S_OF: tl.constexpr, PRE_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The index-th [BLOCK, BLOCK] tile of the unit's six products, over the chunk's blocks of pixels.

    The products are the parts of W_r for t and for s, W, U, the parts of W_z for t and for s; each has
    gradients before a gate on its left and t, s or r.s on its right.
    """
    EVEN: tl.constexpr = T % BLOCK == 0 and S % BLOCK == 0
    M_T: tl.constexpr = tiles_of(T, BLOCK)
    M_S: tl.constexpr = tiles_of(S, BLOCK)
    at_h, at_r, at_z = slots
    right_ptr, right_of, right = t_ptr, T_OF, 0
    # where the product begins in part, its size, the length of the weight's rows, the slot of its left
    if index < M_S * M_T:
        at, rows, columns, length, left = 0, S, T, T + S, at_r
    elif index < M_S * (M_T + M_S):
        at, rows, columns, length, left = T, S, S, T + S, at_r
        right_ptr, right_of = s_ptr, S_OF
        index -= M_S * M_T
    elif index < M_S * (2 * M_T + M_S):
        at, rows, columns, length, left = S * (T + S), T, S, S, at_h
        right_ptr, right_of, right = pre_ptr, PRE_OF, passed
        index -= M_S * (M_T + M_S)
    elif index < M_S * (2 * M_T + M_S) + M_T * M_T:
        at, rows, columns, length, left = S * (T + S) + T * S, T, T, T, at_h
        index -= M_S * (2 * M_T + M_S)
    elif index < M_S * (2 * M_T + M_S) + 2 * M_T * M_T:
        at, rows, columns, length, left = (S + T) * (T + S), T, T, T + S, at_z
        index -= M_S * (2 * M_T + M_S) + M_T * M_T
    else:
        at, rows, columns, length, left = (S + T) * (T + S) + T, T, S, T + S, at_z
        right_ptr, right_of = s_ptr, S_OF
        index -= M_S * (2 * M_T + M_S) + 2 * M_T * M_T
    across = tl.cdiv(columns, BLOCK)
    m = index // across * BLOCK + tl.arange(0, BLOCK)
    n = index % across * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for tile in tl.range(chunk, steps, chunks, num_stages=STAGES):
        place = (tile * BLOCK_P, tl.arange(0, BLOCK_P), plane)
        inside = place[0] + place[1] < pixels
        a = load_part(pre_ptr, place, inside, left + m, PRE_OF, left + rows, EVEN, LAST)
        b = load_part(right_ptr, place, inside, right + n, right_of, right + columns, EVEN, LAST)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    out = part_ptr + at + m[:, None] * length + n[None, :]
    if EVEN:
        tl.store(out, total)
    else:
        tl.store(out, total, mask=(m < rows)[:, None] & (n < columns)[None, :])


@triton.jit
def weight_gradients(
    x_ptr, y_ptr, pre_ptr, part_ptr, pixels, units, chunks, steps,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of all weights over chunks of pixels, part [chunks, all weights one after the other].

    Grid: chunks x tiles of all products.
    """
    plane = units * UNIT
    PRE_OF: tl.constexpr = pre_channels(CX, CY, PAIR)
    X: tl.constexpr = tiles_of(CX, BLOCK)
    Y: tl.constexpr = tiles_of(CY, BLOCK)
    TILES_X: tl.constexpr = (X + Y) * (2 * X + Y)
    TILES: tl.constexpr = TILES_X + ((X + Y) * (X + 2 * Y) if PAIR else 0)
    SIZE_X: tl.constexpr = (CX + CY) * (2 * CX + CY)
    SIZE: tl.constexpr = SIZE_X + ((CX + CY) * (CX + 2 * CY) if PAIR else 0)
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF
    index = tl.program_id(0) % TILES
    chunk = tl.program_id(0) // TILES
    part_ptr += chunk.to(tl.int64) * SIZE
    x_h, x_r, x_z = slots_of_x(CX, CY)
    y_h, y_r, y_z = slots_of_y(CX, CY)
    x_passed = passed_slot(CX, CY, PAIR, True)
    y_passed = passed_slot(CX, CY, PAIR, False)
    if ALIKE:
        if index < TILES_X:
            t_ptr, s_ptr, at_h, at_r, at_z, passed = x_ptr, y_ptr, x_h, x_r, x_z, x_passed
        else:
            t_ptr, s_ptr, at_h, at_r, at_z, passed = y_ptr, x_ptr, y_h, y_r, y_z, y_passed
        unit_weight_gradient(
            index % TILES_X, t_ptr, s_ptr, pre_ptr, part_ptr + index // TILES_X * SIZE_X, (at_h, at_r, at_z),
            passed, chunk, chunks, steps, pixels, plane,
            X_OF, Y_OF, PRE_OF, CX, CY, LAST, PRECISION, BLOCK_P, BLOCK, STAGES,
        )  # fmt: skip
    elif index < TILES_X:
        unit_weight_gradient(
            index, x_ptr, y_ptr, pre_ptr, part_ptr, (x_h, x_r, x_z), x_passed, chunk, chunks, steps,
            pixels, plane, X_OF, Y_OF, PRE_OF, CX, CY, LAST, PRECISION, BLOCK_P, BLOCK, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_weight_gradient(
            index - TILES_X, y_ptr, x_ptr, pre_ptr, part_ptr + SIZE_X, (y_h, y_r, y_z), y_passed, chunk,
            chunks, steps, pixels, plane, Y_OF, X_OF, PRE_OF, CY, CX, LAST, PRECISION, BLOCK_P, BLOCK, STAGES,
        )  # fmt: skip


@triton.jit
def add_parts(
    part_ptr, out_ptr, begin, size, all_weights, chunks,
    BLOCK: tl.constexpr, BLOCK_R: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < size:
        total = tl.zeros((BLOCK_R, BLOCK), tl.float32)
        for loop in range(LOOPS):
            row = loop * BLOCK_R + tl.arange(0, BLOCK_R)
            at = row.to(tl.int64)[:, None] * all_weights + begin + column[None, :]
            total += tl.load(
                part_ptr + at, mask=(row < chunks)[:, None] & (column < size)[None, :], other=0.0
            )
        tl.store(out_ptr + column, tl.sum(total, 0).to(out_ptr.dtype.element_ty), mask=column < size)


@triton.jit
def add_weight_parts(
    part_ptr, W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y, chunks,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_R: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    """The gradients of the weights, from their parts. Grid: blocks of the largest weight, weights."""
    BOTH: tl.constexpr = CX + CY
    OF_X: tl.constexpr = BOTH * (BOTH + CX)
    ALL: tl.constexpr = OF_X + (BOTH * (BOTH + CY) if PAIR else 0)
    weight = tl.program_id(1)
    if weight == 0:
        add_parts(part_ptr, W_r_x, 0, CY * BOTH, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
    elif weight == 1:
        add_parts(part_ptr, W_x, CY * BOTH, CX * CY, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
    elif weight == 2:
        add_parts(part_ptr, U_x, CY * BOTH + CX * CY, CX * CX, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
    elif weight == 3:
        add_parts(part_ptr, W_z_x, BOTH * BOTH, CX * BOTH, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
    elif PAIR:
        if weight == 4:
            add_parts(part_ptr, W_r_y, OF_X, CX * BOTH, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
        elif weight == 5:
            add_parts(part_ptr, W_y, OF_X + CX * BOTH, CX * CY, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
        elif weight == 6:
            add_parts(part_ptr, U_y, OF_X + CX * BOTH + CX * CY, CY * CY, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
        else:
            add_parts(part_ptr, W_z_y, OF_X + BOTH * BOTH, CY * BOTH, ALL, chunks, BLOCK, BLOCK_R, LOOPS)
