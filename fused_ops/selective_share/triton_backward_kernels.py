"""The backward of ``selective_share`` (1x1) with few channels in Triton.

    input_gradients_pair    up to 64 channels: the gradients of x and y of many tiles of pixels, by weights
                            that stay in shared memory; all is read once. Up to 16 channels it makes gates
                            that were not kept again, on chip. Of the gradients before the gates it leaves
                            those before r to weight_gradients_unit (:mod:`.triton_backward_weights`), which
                            makes the others again
    input_gradients_unit    up to 128 channels: the gradient of x or of y of a tile of pixels, in one pass
                            over the channels; leaves all gradients before the gates to the products that
                            make those of the weights. The programs for x and y of a tile are neighbours, so
                            that the second finds what both read in the L2 cache

Formulas in README.md; names and layouts as in :mod:`.triton_tiles`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.selective_share.triton_kernels import unit_gates
from fused_ops.selective_share.triton_tiles import (
    gate_channels,
    load_part,
    load_tile,
    load_weight,
    passed_slot,
    pre_channels,
    pre_gate_gradients,
    reset_channels,
    slots_of_x,
    slots_of_y,
    store_part,
    store_tile,
    unit_weights,
)

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
        h, r, z = unit_gates(t, s, weights, PRECISION, FAST)
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
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        place = (tile * BLOCK_P, tl.arange(0, BLOCK_P), plane)
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
def add_through_gates(
    grad, grad_passed, t_ptr, g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, U, W, W_z, at_h, at_z, place, inside,
    T_OF: tl.constexpr, GRAD_OF: tl.constexpr, G_OF: tl.constexpr, PRE_OF: tl.constexpr,
    C: tl.constexpr, T: tl.constexpr, S: tl.constexpr, OWN: tl.constexpr, KEEP: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr, APART: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One pass over the T channels of a unit's target: the gradients a_h and a_z before h and z.

    APART: no sum goes from one product into another, or Triton gives each warp 16 rows of wgmma's results,
    and eight warps on 64 rows do all twice. That takes registers.

    grad_passed [P, S] + a_h W, and to grad [P, C] what comes through z (W_z points to C of its columns) and,
    if the unit is the gradient's OWN, through U. OWN stores a_h and a_z.
    """
    EVEN: tl.constexpr = BLOCK_C == C and BLOCK_T == T and BLOCK_S == S
    tl.static_assert(BLOCK_T % BLOCK_K == 0)  # a last step beyond the tile would have no mask if EVEN
    lane_c, lane_s = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_S)
    through_u = tl.zeros_like(grad) if APART else None
    for start in tl.range(0, BLOCK_T, BLOCK_K, num_stages=STAGES):
        k = start + tl.arange(0, BLOCK_K)
        g = load_part(g_ptr, place, inside, k, GRAD_OF, T, EVEN, LAST)
        t = load_part(t_ptr, place, inside, k, T_OF, T, EVEN, LAST)
        h = load_part(gates_ptr, place, inside, at_h + k, G_OF, at_h + T, EVEN, LAST)
        z = load_part(gates_ptr, place, inside, at_z + k, G_OF, at_z + T, EVEN, LAST)
        grad_h = None
        grad_z = None
        if grad_gates_ptr is not None:
            grad_h = load_part(grad_gates_ptr, place, inside, at_h + k, G_OF, at_h + T, EVEN, LAST)
            grad_z = load_part(grad_gates_ptr, place, inside, at_z + k, G_OF, at_z + T, EVEN, LAST)
        a_h, a_z, _ = pre_gate_gradients(g, t, h, z, grad_h, grad_z, KEEP)
        a_h = a_h.to(t.dtype)
        a_z = a_z.to(t.dtype)
        w = load_weight(W, S, k, lane_s, T, S, EVEN, False)
        w_z = load_weight(W_z, T + S, k, lane_c, T, C, EVEN, False)
        grad_passed = tl.dot(a_h, w, grad_passed, input_precision=PRECISION)
        grad = tl.dot(a_z, w_z, grad, input_precision=PRECISION)
        if OWN:
            u = load_weight(U, T, k, lane_c, T, C, EVEN, False)
            if APART:
                through_u = tl.dot(a_h, u, through_u, input_precision=PRECISION)
            else:
                grad = tl.dot(a_h, u, grad, input_precision=PRECISION)
            store_part(pre_ptr, a_h, place, inside, at_h, k, PRE_OF, T, EVEN, LAST)
            store_part(pre_ptr, a_z, place, inside, at_z, k, PRE_OF, T, EVEN, LAST)
    if OWN and APART:
        grad += through_u
    return grad, grad_passed


@triton.jit
def through_reset(
    grad, grad_passed, s, r_ptr, grad_gates_ptr, W_r, at_r, place, inside,
    G_OF: tl.constexpr, C: tl.constexpr, T: tl.constexpr, S: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """grad [P, C] + what comes through r (W_r points to C of its columns); r; the gradient before r."""
    r = load_tile(r_ptr, place, inside, at_r, G_OF, S, BLOCK_S, LAST).to(tl.float32)
    grad_r = None
    if grad_gates_ptr is not None:
        grad_r = load_tile(grad_gates_ptr, place, inside, at_r, G_OF, S, BLOCK_S, LAST)
    a_r = before_reset(grad_passed, s, r, grad_r)
    EVEN: tl.constexpr = BLOCK_C == C and BLOCK_S == S
    w_r = load_weight(W_r, T + S, tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_C), S, C, EVEN, False)
    return tl.dot(a_r, w_r, grad, input_precision=PRECISION), r, a_r


@triton.jit
def stream_gradient(
    t_ptr, s_ptr, g_ptr, other_g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_ptr,
    W_r, W, U, W_z, V_r, V, V_z, own, other, passed, place, inside,
    T_OF: tl.constexpr, S_OF: tl.constexpr, GRAD_OF: tl.constexpr, OTHER_OF: tl.constexpr,
    G_OF: tl.constexpr, PRE_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    TARGET: tl.constexpr, SOURCE: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, APART: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of t: as the TARGET of its own unit (weights W_r, W, U, W_z), as the SOURCE of the other,
    whose target has S channels and whose reset gate has T (V_r, V, V_z)."""
    grad = tl.zeros((BLOCK_P, BLOCK_T), tl.float32)
    if TARGET:
        at_h, at_r, at_z = own
        grad_passed = tl.zeros((BLOCK_P, BLOCK_S), tl.float32)
        grad, grad_passed = add_through_gates(
            grad, grad_passed, t_ptr, g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, U, W, W_z, at_h, at_z,
            place, inside, T_OF, GRAD_OF, G_OF, PRE_OF, T, T, S, True, KEEP, LAST, PRECISION,
            APART, BLOCK_T, BLOCK_T, BLOCK_S, BLOCK_K, STAGES,
        )  # fmt: skip
        s = load_tile(s_ptr, place, inside, 0, S_OF, S, BLOCK_S, LAST)
        grad, r, a_r = through_reset(
            grad, grad_passed, s, gates_ptr, grad_gates_ptr, W_r, at_r, place, inside,
            G_OF, T, T, S, LAST, PRECISION, BLOCK_T, BLOCK_S,
        )  # fmt: skip
        store_tile(pre_ptr, a_r, place, inside, at_r, PRE_OF, S, BLOCK_S, LAST)
        store_tile(pre_ptr, r * s.to(tl.float32), place, inside, passed, PRE_OF, S, BLOCK_S, LAST)
        g = load_tile(g_ptr, place, inside, 0, GRAD_OF, T, BLOCK_T, LAST).to(tl.float32)
        z = load_tile(gates_ptr, place, inside, at_z, G_OF, T, BLOCK_T, LAST).to(tl.float32)
        grad += g * z if KEEP else g * (1 - z)
    if SOURCE:
        as_target = grad
        if APART:
            grad = tl.zeros((BLOCK_P, BLOCK_T), tl.float32)
        other_h, other_r, other_z = other
        grad_passed = tl.zeros((BLOCK_P, BLOCK_T), tl.float32)
        grad, grad_passed = add_through_gates(
            grad, grad_passed, s_ptr, other_g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, V, V, V_z + S,
            other_h, other_z, place, inside, S_OF, OTHER_OF, G_OF, PRE_OF, T, S, T, False, KEEP, LAST,
            PRECISION, APART, BLOCK_T, BLOCK_S, BLOCK_T, BLOCK_K, STAGES,
        )  # fmt: skip
        t = load_tile(t_ptr, place, inside, 0, T_OF, T, BLOCK_T, LAST)
        grad, r, _ = through_reset(
            grad, grad_passed, t, gates_ptr, grad_gates_ptr, V_r + S, other_r, place, inside,
            G_OF, T, S, T, LAST, PRECISION, BLOCK_T, BLOCK_T,
        )  # fmt: skip
        grad += grad_passed * r
        if APART:
            grad += as_target
    store_tile(grad_ptr, grad, place, inside, 0, T, T, BLOCK_T, LAST)


@triton.jit
def input_gradients_unit(
    x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
    W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr, APART: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of x or of y, and those before the gates of its unit.

    Grid: two programs for each tile of BLOCK_P pixels.
    """
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    PRE_OF: tl.constexpr = pre_channels(CX, CY, PAIR)
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF and GX_OF == GY_OF
    place = (tl.program_id(0) // 2 * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    of_x = tl.program_id(0) % 2 == 0
    x_h, x_r, x_z = slots_of_x(CX, CY)
    y_h, y_r, y_z = slots_of_y(CX, CY)
    x_passed = passed_slot(CX, CY, PAIR, True)
    y_passed = passed_slot(CX, CY, PAIR, False)
    if ALIKE:
        if of_x:
            t_ptr, s_ptr, g_ptr, other_g_ptr = x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr
            grad_ptr, passed = grad_x_ptr, x_passed
            W_r, W, U, W_z, V_r, V, V_z = W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, W_z_y
            at_h, at_r, at_z, other_h, other_r, other_z = x_h, x_r, x_z, y_h, y_r, y_z
        else:
            t_ptr, s_ptr, g_ptr, other_g_ptr = y_ptr, x_ptr, grad_y_out_ptr, grad_x_out_ptr
            grad_ptr, passed = grad_y_ptr, y_passed
            W_r, W, U, W_z, V_r, V, V_z = W_r_y, W_y, U_y, W_z_y, W_r_x, W_x, W_z_x
            at_h, at_r, at_z, other_h, other_r, other_z = y_h, y_r, y_z, x_h, x_r, x_z
        stream_gradient(
            t_ptr, s_ptr, g_ptr, other_g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_ptr,
            W_r, W, U, W_z, V_r, V, V_z, (at_h, at_r, at_z), (other_h, other_r, other_z), passed,
            place, inside, X_OF, Y_OF, GX_OF, GY_OF, G_OF, PRE_OF, CX, CY, True, True, KEEP, LAST, PRECISION,
            APART, BLOCK_P, BLOCK_X, BLOCK_Y, BLOCK_K, STAGES,
        )  # fmt: skip
    elif of_x:
        stream_gradient(
            x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr,
            W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, W_z_y, (x_h, x_r, x_z), (y_h, y_r, y_z), x_passed,
            place, inside, X_OF, Y_OF, GX_OF, GY_OF, G_OF, PRE_OF, CX, CY, True, PAIR, KEEP, LAST, PRECISION,
            APART, BLOCK_P, BLOCK_X, BLOCK_Y, BLOCK_K, STAGES,
        )  # fmt: skip
    else:
        stream_gradient(
            y_ptr, x_ptr, grad_y_out_ptr, grad_x_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_y_ptr,
            W_r_y, W_y, U_y, W_z_y, W_r_x, W_x, W_z_x, (y_h, y_r, y_z), (x_h, x_r, x_z), y_passed,
            place, inside, Y_OF, X_OF, GY_OF, GX_OF, G_OF, PRE_OF, CY, CX, PAIR, True, KEEP, LAST, PRECISION,
            APART, BLOCK_P, BLOCK_Y, BLOCK_X, BLOCK_K, STAGES,
        )  # fmt: skip
