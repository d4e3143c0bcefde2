"""The backward of ``selective_share`` (1x1) with few channels in Triton.

    input_gradients_pair    up to 64 channels: the gradients of x and y of many tiles of pixels, by weights
                            that stay in shared memory; all is read once. Up to 16 channels it makes gates
                            that were not kept again, on chip. Of the gradients before the gates it leaves
                            those before r to weight_gradients_unit (:mod:`.triton_backward_weights`), which
                            makes the others again
    input_gradients_fused   up to 128 channels: the steps of :mod:`.triton_backward_products` for a tile of
                            pixels, one after the other; leaves all gradients before the gates to the
                            products that make those of the weights

Both begin with the last tiles, of which the L2 cache may still hold what the kernels before left; those of
the weights then begin with the first. Formulas in README.md; names and layouts as in :mod:`.triton_tiles`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.selective_share.triton_backward_products import (
    gate_gradients_tile,
    input_gradients_tile,
    reset_gradients_tile,
)
from fused_ops.selective_share.triton_kernels import unit_gates
from fused_ops.selective_share.triton_tiles import (
    gate_channels,
    load_tile,
    pre_gate_gradients,
    reset_channels,
    slots_of_x,
    slots_of_y,
    store_tile,
    tiles_of,
    unit_weights,
)
from fused_ops.triton_math import last_first

# --- up to 64 channels --------------------------------------------------------------------------------------


@triton.jit
def before_reset(grad_passed, s, r, grad_r):
    """a_r, in s's dtype, from the gradient of r.s and, where it is there, of r from outside."""
    a_r = grad_passed * s.to(tl.float32)
    if grad_r is not None:
        a_r += grad_r.to(tl.float32)
    return (a_r * r * (1 - r)).to(s.dtype)


@triton.jit
def before_h_and_z(
    g, t, h, z, grad_gates_ptr, at_h, at_z, place, inside, G_OF: tl.constexpr, T: tl.constexpr,
    KEEP: tl.constexpr, LAST: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """a_h and a_z in t's dtype, and what of g goes to h; with the gates' gradients from outside, if any."""
    grad_h = None
    grad_z = None
    if grad_gates_ptr is not None:
        grad_h = load_tile(grad_gates_ptr, place, inside, at_h, G_OF, T, BLOCK_T, LAST)
        grad_z = load_tile(grad_gates_ptr, place, inside, at_z, G_OF, T, BLOCK_T, LAST)
    a_h, a_z, to_h = pre_gate_gradients(g, t, h, z, grad_h, grad_z, KEEP)
    return a_h.to(t.dtype), a_z.to(t.dtype), to_h


@triton.jit
def add_of_unit(
    grad_t, grad_s, t_ptr, s_ptr, g_ptr, gates_ptr, grad_gates_ptr, before_r_ptr, slots, before_r,
    weights, back, place, inside, T_OF: tl.constexpr, S_OF: tl.constexpr, GRAD_OF: tl.constexpr,
    G_OF: tl.constexpr, R_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr, KEEP: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The gradients of a unit's target and source, added to what they are so far, which may be None.

    ``back`` are its weights as right factors, [out, in]; ``weights``, [in, out], make the gates again where
    there are none. Loads come late, and those of t and s again for the other unit (from the L1 cache):
    registers are what limits this kernel.
    """
    at_h, at_r, at_z = slots
    r_t, r_s, w, u, z_t, z_s = back
    t = load_tile(t_ptr, place, inside, 0, T_OF, T, BLOCK_T, LAST)
    g = load_tile(g_ptr, place, inside, 0, GRAD_OF, T, BLOCK_T, LAST)
    if gates_ptr is None:
        s = load_tile(s_ptr, place, inside, 0, S_OF, S, BLOCK_S, LAST)
        h, r, z = unit_gates(t, s, weights, S, PRECISION, FAST)
    else:
        h = load_tile(gates_ptr, place, inside, at_h, G_OF, T, BLOCK_T, LAST)
        z = load_tile(gates_ptr, place, inside, at_z, G_OF, T, BLOCK_T, LAST)
    a_h, a_z, to_h = before_h_and_z(
        g, t, h, z, grad_gates_ptr, at_h, at_z, place, inside, G_OF, T, KEEP, LAST, BLOCK_T
    )  # fmt: skip
    to_t = g.to(tl.float32) - to_h
    grad_t = to_t if grad_t is None else grad_t + to_t
    grad_t = tl.dot(a_z, z_t, grad_t, input_precision=PRECISION)
    grad_s = tl.dot(a_z, z_s, grad_s, input_precision=PRECISION)
    grad_t = tl.dot(a_h, u, grad_t, input_precision=PRECISION)
    grad_passed = tl.dot(a_h, w, input_precision=PRECISION)
    if gates_ptr is not None:
        s = load_tile(s_ptr, place, inside, 0, S_OF, S, BLOCK_S, LAST)
        r = load_tile(gates_ptr, place, inside, at_r, G_OF, S, BLOCK_S, LAST).to(tl.float32)
    grad_r = None
    if grad_gates_ptr is not None:
        grad_r = load_tile(grad_gates_ptr, place, inside, at_r, G_OF, S, BLOCK_S, LAST)
    a_r = before_reset(grad_passed, s, r, grad_r)
    if before_r_ptr is not None:
        store_tile(before_r_ptr, a_r, place, inside, before_r, R_OF, S, BLOCK_S, LAST)
    grad_s += grad_passed * r
    grad_t = tl.dot(a_r, r_t, grad_t, input_precision=PRECISION)
    grad_s = tl.dot(a_r, r_s, grad_s, input_precision=PRECISION)
    return grad_t, grad_s


@triton.jit
def input_gradients_pair(
    x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, before_r_ptr,
    grad_x_ptr, grad_y_ptr, W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y, pixels, units, tiles,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradients of x and y, and those before the reset gates. Grid: as many programs as run at once."""
    plane = units * UNIT
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    R_OF: tl.constexpr = reset_channels(CX, CY, PAIR)
    x_weights = None
    y_weights = None
    if gates_ptr is None:
        x_weights = unit_weights(W_r_x, W_x, U_x, W_z_x, CX, CY, BLOCK_X, BLOCK_Y, True)
        if PAIR:
            y_weights = unit_weights(W_r_y, W_y, U_y, W_z_y, CY, CX, BLOCK_Y, BLOCK_X, True)
    x_back = unit_weights(W_r_x, W_x, U_x, W_z_x, CX, CY, BLOCK_X, BLOCK_Y, False)
    if PAIR:
        y_back = unit_weights(W_r_y, W_y, U_y, W_z_y, CY, CX, BLOCK_Y, BLOCK_X, False)
    for turn in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        place = ((tiles - 1 - turn) * BLOCK_P, tl.arange(0, BLOCK_P), plane)
        inside = place[0] + place[1] < pixels
        grad_x, grad_y = add_of_unit(
            None, None, x_ptr, y_ptr, grad_x_out_ptr, gates_ptr, grad_gates_ptr, before_r_ptr,
            slots_of_x(CX, CY), 0, x_weights, x_back, place, inside, X_OF, Y_OF, GX_OF, G_OF, R_OF, CX, CY,
            KEEP, LAST, PRECISION, FAST, BLOCK_X, BLOCK_Y,
        )  # fmt: skip
        if PAIR:
            grad_y, grad_x = add_of_unit(
                grad_y, grad_x, y_ptr, x_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, before_r_ptr,
                slots_of_y(CX, CY), CY, y_weights, y_back, place, inside, Y_OF, X_OF, GY_OF, G_OF, R_OF,
                CY, CX, KEEP, LAST, PRECISION, FAST, BLOCK_Y, BLOCK_X,
            )  # fmt: skip
        store_tile(grad_x_ptr, grad_x, place, inside, 0, CX, CX, BLOCK_X, LAST)
        store_tile(grad_y_ptr, grad_y, place, inside, 0, CY, CY, BLOCK_Y, LAST)


# --- up to 128 channels -------------------------------------------------------------------------------------


@triton.jit
def input_gradients_fused(
    x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
    W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradients of x and y, and those before the gates. Grid: tiles of BLOCK_P pixels.

    What a step leaves in memory the next one reads, from the L2 cache, as the tensor cores take it: a factor
    made in registers would be made by each warp that needs it. Nothing passes between programs, so barriers
    among a program's threads are enough. The first step holds four tensors at once, hence half the columns.
    """
    X: tl.constexpr = tiles_of(CX, BLOCK_N)
    Y: tl.constexpr = tiles_of(CY, BLOCK_N)
    HALF: tl.constexpr = BLOCK_N // 2
    HALVES: tl.constexpr = tiles_of(CX, HALF) + (tiles_of(CY, HALF) if PAIR else 0)
    place = (last_first() * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    for index in tl.range(0, HALVES, num_stages=1):
        gate_gradients_tile(
            index, x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr,
            place, inside, X_OF, Y_OF, GX_OF, GY_OF, CX, CY, PAIR, KEEP, LAST, HALF,
        )  # fmt: skip
    tl.debug_barrier()
    for index in tl.range(0, X + Y if PAIR else Y, num_stages=1):
        reset_gradients_tile(
            index, x_ptr, y_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr, W_x, W_y,
            place, inside, X_OF, Y_OF, CX, CY, PAIR, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    tl.debug_barrier()
    for index in tl.range(0, X + Y, num_stages=1):
        input_gradients_tile(
            index, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
            W_r_x, U_x, W_z_x, W_r_y, U_y, W_z_y, place, inside,
            GX_OF, GY_OF, CX, CY, PAIR, KEEP, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
