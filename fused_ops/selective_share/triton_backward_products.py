"""The gradients of x and y of ``selective_share`` (1x1) with many channels in Triton.

    gate_gradients      a_h and a_z, element by element
    reset_gradients     d(r.s) = a_h W; from it a_r, r.s, and d(r.s) . r as the source's gradient so far
    input_gradients     what is missing of both gradients: products of all a_ with U, W_r, W_z

Each is a kernel of its own, whose programs share out the channels, and a step of input_gradients_fused
(:mod:`.triton_backward_kernels`), for which a ``_tile`` of it is the body of a loop.

a_ is the gradient of what stands before a gate's nonlinearity. All a_ lie in one tensor, in the slots of
their gates, followed by r.s of x's unit and of y's. Names and layouts as in :mod:`.triton_tiles`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.selective_share.triton_products import sum_of_products
from fused_ops.selective_share.triton_tiles import (
    gate_channels,
    load_part,
    passed_slot,
    pre_channels,
    pre_gate_gradients,
    slots_of_x,
    slots_of_y,
    store_part,
    strips,
    strips_of,
    tiles_of,
)
from fused_ops.triton_math import last_first


@triton.jit
def unit_gate_gradients(
    index, t_ptr, g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, at_h, at_z, place, inside,
    T_OF: tl.constexpr, GRAD_OF: tl.constexpr, G_OF: tl.constexpr, PRE_OF: tl.constexpr, T: tl.constexpr,
    KEEP: tl.constexpr, LAST: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    EVEN: tl.constexpr = T % BLOCK_N == 0
    n = index * BLOCK_N + tl.arange(0, BLOCK_N)
    g = load_part(g_ptr, place, inside, n, GRAD_OF, T, EVEN, LAST)
    t = load_part(t_ptr, place, inside, n, T_OF, T, EVEN, LAST)
    h = load_part(gates_ptr, place, inside, at_h + n, G_OF, at_h + T, EVEN, LAST)
    z = load_part(gates_ptr, place, inside, at_z + n, G_OF, at_z + T, EVEN, LAST)
    grad_h = None
    grad_z = None
    if grad_gates_ptr is not None:
        grad_h = load_part(grad_gates_ptr, place, inside, at_h + n, G_OF, at_h + T, EVEN, LAST)
        grad_z = load_part(grad_gates_ptr, place, inside, at_z + n, G_OF, at_z + T, EVEN, LAST)
    a_h, a_z, _ = pre_gate_gradients(g, t, h, z, grad_h, grad_z, KEEP)
    store_part(pre_ptr, a_h, place, inside, at_h, n, PRE_OF, T, EVEN, LAST)
    store_part(pre_ptr, a_z, place, inside, at_z, n, PRE_OF, T, EVEN, LAST)


@triton.jit
def gate_gradients_tile(
    index, x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, place, inside,
    X_OF: tl.constexpr, Y_OF: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr, KEEP: tl.constexpr,
    LAST: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """a_h and a_z of the index-th BLOCK_N channels of [x y]."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    PRE_OF: tl.constexpr = pre_channels(CX, CY, PAIR)
    TILES_X: tl.constexpr = tiles_of(CX, BLOCK_N)
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF and GX_OF == GY_OF
    x_h, _, x_z = slots_of_x(CX, CY)
    y_h, _, y_z = slots_of_y(CX, CY)
    if ALIKE:
        if index < TILES_X:
            t_ptr, g_ptr, at_h, at_z = x_ptr, grad_x_out_ptr, x_h, x_z
        else:
            t_ptr, g_ptr, at_h, at_z = y_ptr, grad_y_out_ptr, y_h, y_z
        unit_gate_gradients(
            index % TILES_X, t_ptr, g_ptr, gates_ptr, grad_gates_ptr, pre_ptr, at_h, at_z,
            place, inside, X_OF, GX_OF, G_OF, PRE_OF, CX, KEEP, LAST, BLOCK_N,
        )  # fmt: skip
    elif index < TILES_X:
        unit_gate_gradients(
            index, x_ptr, grad_x_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, x_h, x_z,
            place, inside, X_OF, GX_OF, G_OF, PRE_OF, CX, KEEP, LAST, BLOCK_N,
        )  # fmt: skip
    elif PAIR:
        unit_gate_gradients(
            index - TILES_X, y_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, y_h, y_z,
            place, inside, Y_OF, GY_OF, G_OF, PRE_OF, CY, KEEP, LAST, BLOCK_N,
        )  # fmt: skip


@triton.jit
def gate_gradients(
    x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr, pre_ptr, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr,
    CX: tl.constexpr, CY: tl.constexpr, PAIR: tl.constexpr, KEEP: tl.constexpr,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """a_h and a_z of both units. Grid: tiles of pixels x tiles of [x y]."""
    TILES: tl.constexpr = tiles_of(CX, BLOCK_N) + (tiles_of(CY, BLOCK_N) if PAIR else 0)
    place = (last_first() // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    gate_gradients_tile(
        tl.program_id(0) % TILES, x_ptr, y_ptr, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, grad_gates_ptr,
        pre_ptr, place, inside, X_OF, Y_OF, GX_OF, GY_OF, CX, CY, PAIR, KEEP, LAST, BLOCK_N,
    )  # fmt: skip


@triton.jit
def unit_reset_gradients(
    index, s_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_s_ptr, W, at_h, at_r, passed, place, inside,
    S_OF: tl.constexpr, G_OF: tl.constexpr, PRE_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    LAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    EVEN: tl.constexpr = S % BLOCK_N == 0 and T % BLOCK_K == 0
    total = sum_of_products(
        ((pre_ptr, PRE_OF, at_h, T, W, S),), place, inside, index * BLOCK_N + tl.arange(0, BLOCK_N), S,
        EVEN, LAST, False, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    WIDTH: tl.constexpr = BLOCK_N // strips_of(BLOCK_N)
    ends = strips(total, BLOCK_P, BLOCK_N)
    for strip in tl.static_range(strips_of(BLOCK_N)):
        n = index * BLOCK_N + strip * WIDTH + tl.arange(0, WIDTH)
        grad_passed = ends[strip]
        s = load_part(s_ptr, place, inside, n, S_OF, S, EVEN, LAST).to(tl.float32)
        r = load_part(gates_ptr, place, inside, at_r + n, G_OF, at_r + S, EVEN, LAST).to(tl.float32)
        grad_r = grad_passed * s
        if grad_gates_ptr is not None:
            outside = load_part(grad_gates_ptr, place, inside, at_r + n, G_OF, at_r + S, EVEN, LAST)
            grad_r += outside.to(tl.float32)
        store_part(pre_ptr, grad_r * r * (1 - r), place, inside, at_r, n, PRE_OF, S, EVEN, LAST)
        store_part(pre_ptr, r * s, place, inside, passed, n, PRE_OF, S, EVEN, LAST)
        store_part(grad_s_ptr, grad_passed * r, place, inside, 0, n, S, S, EVEN, LAST)


@triton.jit
def reset_gradients_tile(
    index, x_ptr, y_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr, W_x, W_y, place, inside,
    X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """a_r, r.s and what comes through r.s to the source's gradient, of the index-th tile of [y x]."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    PRE_OF: tl.constexpr = pre_channels(CX, CY, PAIR)
    TILES_Y: tl.constexpr = tiles_of(CY, BLOCK_N)
    ALIKE: tl.constexpr = PAIR and CX == CY and X_OF == Y_OF
    x_h, x_r, _ = slots_of_x(CX, CY)
    y_h, y_r, _ = slots_of_y(CX, CY)
    x_passed = passed_slot(CX, CY, PAIR, True)
    y_passed = passed_slot(CX, CY, PAIR, False)
    if ALIKE:
        if index < TILES_Y:
            s_ptr, grad_s_ptr, W, at_h, at_r, passed = y_ptr, grad_y_ptr, W_x, x_h, x_r, x_passed
        else:
            s_ptr, grad_s_ptr, W, at_h, at_r, passed = x_ptr, grad_x_ptr, W_y, y_h, y_r, y_passed
        unit_reset_gradients(
            index % TILES_Y, s_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_s_ptr, W, at_h, at_r, passed,
            place, inside, Y_OF, G_OF, PRE_OF, CX, CY, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif index < TILES_Y:
        unit_reset_gradients(
            index, y_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_y_ptr, W_x, x_h, x_r, x_passed,
            place, inside, Y_OF, G_OF, PRE_OF, CX, CY, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif PAIR:
        unit_reset_gradients(
            index - TILES_Y, x_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, W_y, y_h, y_r, y_passed,
            place, inside, X_OF, G_OF, PRE_OF, CY, CX, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip


@triton.jit
def reset_gradients(
    x_ptr, y_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr, W_x, W_y, pixels, units,
    UNIT: tl.constexpr, X_OF: tl.constexpr, Y_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """a_r, r.s and what comes through r.s to the sources' gradients. Grid: tiles of pixels, of [y x]."""
    TILES: tl.constexpr = tiles_of(CY, BLOCK_N) + (tiles_of(CX, BLOCK_N) if PAIR else 0)
    place = (tl.program_id(0) // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    reset_gradients_tile(
        tl.program_id(0) % TILES, x_ptr, y_ptr, gates_ptr, grad_gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
        W_x, W_y, place, inside, X_OF, Y_OF, CX, CY, PAIR, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip


@triton.jit
def input_gradient(
    index, g_ptr, gates_ptr, pre_ptr, grad_t_ptr, W_r, U, W_z, V_r, V_z, own, other_r, other_z, place, inside,
    GRAD_OF: tl.constexpr, G_OF: tl.constexpr, PRE_OF: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    TARGET: tl.constexpr, SOURCE: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of t: as the TARGET of its own unit (weights W_r, U, W_z; slots ``own``), and as the
    SOURCE of the other, whose target has S channels and whose reset gate has T (V_r, V_z)."""
    EVEN: tl.constexpr = T % BLOCK_N == 0 and T % BLOCK_K == 0 and S % BLOCK_K == 0
    at_h, at_r, at_z = own
    products = ()
    if TARGET:
        products += (  # type: ignore[assignment]  # a tuple of Triton may grow
            (pre_ptr, PRE_OF, at_h, T, U, T),
            (pre_ptr, PRE_OF, at_r, S, W_r, T + S),
            (pre_ptr, PRE_OF, at_z, T, W_z, T + S),
        )
    if SOURCE:
        products += (  # type: ignore[assignment]  # a tuple of Triton may grow
            (pre_ptr, PRE_OF, other_r, T, V_r + S, T + S),
            (pre_ptr, PRE_OF, other_z, S, V_z + S, T + S),
        )
    total = sum_of_products(
        products, place, inside, index * BLOCK_N + tl.arange(0, BLOCK_N), T, EVEN, LAST, False, PRECISION,
        BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    WIDTH: tl.constexpr = BLOCK_N // strips_of(BLOCK_N)
    ends = strips(total, BLOCK_P, BLOCK_N)
    for strip in tl.static_range(strips_of(BLOCK_N)):
        n = index * BLOCK_N + strip * WIDTH + tl.arange(0, WIDTH)
        grad = ends[strip]
        if SOURCE:
            grad += load_part(grad_t_ptr, place, inside, n, T, T, EVEN, LAST).to(tl.float32)
        if TARGET:
            z = load_part(gates_ptr, place, inside, at_z + n, G_OF, at_z + T, EVEN, LAST).to(tl.float32)
            g = load_part(g_ptr, place, inside, n, GRAD_OF, T, EVEN, LAST).to(tl.float32)
            grad += g * z if KEEP else g * (1 - z)
        store_part(grad_t_ptr, grad, place, inside, 0, n, T, T, EVEN, LAST)


@triton.jit
def input_gradients_tile(
    index, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
    W_r_x, U_x, W_z_x, W_r_y, U_y, W_z_y, place, inside,
    GX_OF: tl.constexpr, GY_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of the index-th tile of [x y], added to what reset_gradients_tile left there."""
    G_OF: tl.constexpr = gate_channels(CX, CY, PAIR)
    PRE_OF: tl.constexpr = pre_channels(CX, CY, PAIR)
    TILES_X: tl.constexpr = tiles_of(CX, BLOCK_N)
    ALIKE: tl.constexpr = PAIR and CX == CY and GX_OF == GY_OF
    x_h, x_r, x_z = slots_of_x(CX, CY)
    y_h, y_r, y_z = slots_of_y(CX, CY)
    if ALIKE:
        if index < TILES_X:
            g_ptr, grad_ptr, other_r, other_z = grad_x_out_ptr, grad_x_ptr, y_r, y_z
            at_h, at_r, at_z = x_h, x_r, x_z
            W_r, U, W_z, V_r, V_z = W_r_x, U_x, W_z_x, W_r_y, W_z_y
        else:
            g_ptr, grad_ptr, other_r, other_z = grad_y_out_ptr, grad_y_ptr, x_r, x_z
            at_h, at_r, at_z = y_h, y_r, y_z
            W_r, U, W_z, V_r, V_z = W_r_y, U_y, W_z_y, W_r_x, W_z_x
        input_gradient(
            index % TILES_X, g_ptr, gates_ptr, pre_ptr, grad_ptr, W_r, U, W_z, V_r, V_z, (at_h, at_r, at_z),
            other_r, other_z, place, inside, GX_OF, G_OF, PRE_OF, CX, CY, True, True, KEEP, LAST, PRECISION,
            BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    elif index < TILES_X:
        input_gradient(
            index, grad_x_out_ptr, gates_ptr, pre_ptr, grad_x_ptr, W_r_x, U_x, W_z_x, W_r_y, W_z_y,
            (x_h, x_r, x_z), y_r, y_z, place, inside, GX_OF, G_OF, PRE_OF, CX, CY, True, PAIR, KEEP, LAST,
            PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    else:
        input_gradient(
            index - TILES_X, grad_y_out_ptr, gates_ptr, pre_ptr, grad_y_ptr, W_r_y, U_y, W_z_y, W_r_x, W_z_x,
            (y_h, y_r, y_z), x_r, x_z, place, inside, GY_OF, G_OF, PRE_OF, CY, CX, PAIR, True, KEEP, LAST,
            PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip


@triton.jit
def input_gradients(
    grad_x_out_ptr, grad_y_out_ptr, gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
    W_r_x, U_x, W_z_x, W_r_y, U_y, W_z_y, pixels, units,
    UNIT: tl.constexpr, GX_OF: tl.constexpr, GY_OF: tl.constexpr, CX: tl.constexpr, CY: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradients of x and y, added to what reset_gradients left there. Grid: tiles of pixels, of [x y]."""
    TILES: tl.constexpr = tiles_of(CX, BLOCK_N) + tiles_of(CY, BLOCK_N)
    place = (last_first() // TILES * BLOCK_P, tl.arange(0, BLOCK_P), units * UNIT)
    inside = place[0] + place[1] < pixels
    input_gradients_tile(
        tl.program_id(0) % TILES, grad_x_out_ptr, grad_y_out_ptr, gates_ptr, pre_ptr, grad_x_ptr, grad_y_ptr,
        W_r_x, U_x, W_z_x, W_r_y, U_y, W_z_y, place, inside,
        GX_OF, GY_OF, CX, CY, PAIR, KEEP, LAST, PRECISION, BLOCK_P, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
