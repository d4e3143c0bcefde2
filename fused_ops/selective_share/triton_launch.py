"""The Triton backend of ``selective_share``: which kernels serve a call, in which launches.

Imported when the backend is first used. What is chosen is in the launch tables of :mod:`fused_ops.tuning`,
families ``selective_share.forward``, ``.backward`` and ``.weights``; ``kernel`` in them is

    forward     "resident", "unit" (:mod:`.triton_kernels`) or "products" (:mod:`.triton_products`)
    backward    "pair" (:mod:`.triton_backward_kernels` and, for the weights, with parameters that begin with
                weight_, :mod:`.triton_backward_weights`), "fused" (:mod:`.triton_backward_kernels`) or
                "products" (:mod:`.triton_backward_products`)
    weights     "products" (:mod:`.triton_backward_weights`), after the backward's "fused" or "products"

Where no gates were kept (the fact ``gates`` is 0) "pair" makes them again on chip; before any other kernels
the forward makes them, in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_ops import tuning
from fused_ops.selective_share import triton_backward_kernels as backward_kernels
from fused_ops.selective_share import triton_backward_products as backward_products
from fused_ops.selective_share import triton_backward_weights as backward_weights
from fused_ops.selective_share import triton_kernels, triton_products
from fused_ops.selective_share.triton_plan import LARGEST_TILE, Call, empty_like, slice_of, tile_constants
from fused_ops.triton_support import Planned, ceil_div, next_power_of_two, on_device, run

Weights = Sequence[Tensor | None]


# --- forward ------------------------------------------------------------------------------------------------


def forward(
    x: Tensor,
    y: Tensor,
    weights: Weights,
    keep: bool,
    gates: Tensor | None,
    outputs: tuple[Tensor, Tensor] | None,
    layout: torch.memory_format,
) -> None:
    """``reference.forward`` in Triton, into ``outputs`` (x', y') and, where wanted, ``gates``.

    ``weights`` are eight, the last four None for a single unit. All large tensors are in ``layout``.
    """
    call, x, y = Call.of(x, y, weights[4] is not None, keep, layout)
    launches = _forward_launches(call, gates is not None)
    weights = [None if weight is None else weight.contiguous() for weight in weights]
    with on_device(x):
        if len(launches) == 1:
            if outputs is None:
                outputs = empty_like(x, call.cx, layout), empty_like(x, call.cy, layout)
            run(launches[0], x, y, *outputs, gates, *weights)
            return
        x_out, y_out = outputs if outputs is not None else (None, None)
        if gates is None:  # z, on its way from one kernel to the next, as r.s in passed
            gates = empty_like(x, call.cx + call.cy if call.pair else call.cx, layout)
        passed = empty_like(x, call.reset_channels, layout)
        W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y = weights
        run(launches[0], x, y, gates, passed, W_r_x, W_z_x, W_r_y, W_z_y)
        run(launches[1], x, y, x_out, y_out, gates, passed, W_x, U_x, W_y, U_y)


@tuning.remembered
def _forward_launches(call: Call, gates: bool) -> tuple[Planned, ...]:
    """The one kernel of few channels, or update_gates and candidate_and_mix."""
    choice = call.choose("forward", gates=int(gates))
    tiles = ceil_div(call.pixels, choice["pixels"])
    common = {**call.constants(), **call.gate_arithmetic(), **tile_constants(choice)}
    keep = {"KEEP": call.keep}
    if choice["kernel"] == "resident":
        grid = (call.programs(tiles, choice["programs"], call.units),)
        constants = {**common, **call.channel_blocks(), **keep}
        return (Planned(triton_kernels.forward_resident, grid, (*call.sizes, tiles), constants),)
    if choice["kernel"] == "unit":
        constants = {**common, **call.channel_blocks(), **keep, "BLOCK_N": call.step(choice["columns"])}
        return (Planned(triton_kernels.forward_unit, (2 * tiles,), call.sizes, constants),)
    columns = call.columns(choice["columns"])
    tiles, of_x, of_y = call.tiles(choice["pixels"], columns)
    common |= {"BLOCK_N": columns, "BLOCK_K": choice["depth"], "KEPT": gates}
    results = of_x + (of_y if call.pair else 0)
    update = (tiles * (of_x + of_y) * call.units,)
    return (
        Planned(triton_products.update_gates, update, call.sizes, common),
        Planned(triton_products.candidate_and_mix, (tiles * results,), call.sizes, {**common, **keep}),
    )


# --- backward -----------------------------------------------------------------------------------------------


class _Backward(NamedTuple):
    """The launches of a backward: those for x and y, that for the parts of the weights, their sum."""

    kernel: str
    inputs: tuple[Planned, ...]
    weights: Planned
    chunks: int
    sum: Planned


def backward(
    grad_x_out: Tensor,
    grad_y_out: Tensor | None,
    grad_gates: Tensor | None,
    x: Tensor,
    y: Tensor,
    gates: Tensor | None,
    weights: Weights,
    keep: bool,
    grads: Sequence[Tensor],
    layout: torch.memory_format,
) -> None:
    """``reference.backward`` in Triton, into the ten ``grads``: of x, y and the eight weights."""
    call, x, y = Call.of(x, y, weights[4] is not None, keep, layout)
    weights = [None if weight is None else weight.contiguous() for weight in weights]
    grad_gates, gates = (
        value if value is None else value.contiguous(memory_format=layout) for value in (grad_gates, gates)
    )
    grad_x_out, gx_of = slice_of(grad_x_out, layout)
    gy_of = call.cy
    if grad_y_out is not None:
        grad_y_out, gy_of = slice_of(grad_y_out, layout)
    launches = _backward_launches(call, gx_of, gy_of, grad_gates is not None, gates is not None)
    if launches is None:
        gates = empty_like(x, call.gate_channels, layout)
        forward(x, y, weights, keep, gates, None, layout)
        backward(grad_x_out, grad_y_out, grad_gates, x, y, gates, weights, keep, grads, layout)
        return
    with on_device(x):
        given = (grad_x_out, grad_y_out, gates, grad_gates)
        parts = torch.empty((launches.chunks, call.weights), dtype=torch.float32, device=x.device)
        if launches.kernel == "pair":
            before_r = None if gates is None else empty_like(x, call.reset_channels, layout)
            run(launches.inputs[0], x, y, *given, before_r, *grads[:2], *weights)
            run(launches.weights, x, y, *given, before_r, parts, *weights)
        else:
            pre = empty_like(x, call.gate_channels + call.reset_channels, layout)
            if launches.kernel == "fused":
                run(launches.inputs[0], x, y, *given, pre, *grads[:2], *weights)
            else:
                _input_gradients_by_products(launches.inputs, x, y, given, pre, weights, grads[:2])
            run(launches.weights, x, y, pre, parts)
        run(launches.sum, parts, *(grads[2:] if call.pair else (*grads[2:6], None, None, None, None)))


def _input_gradients_by_products(
    launches: Sequence[Planned], x: Tensor, y: Tensor, given: tuple[Tensor | None, ...], pre: Tensor,
    weights: Weights, grads: Sequence[Tensor],
) -> None:  # fmt: skip
    grad_x_out, grad_y_out, gates, grad_gates = given
    W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y = weights
    run(launches[0], x, y, grad_x_out, grad_y_out, gates, grad_gates, pre)
    run(launches[1], x, y, gates, grad_gates, pre, *grads, W_x, W_y)
    run(launches[2], grad_x_out, grad_y_out, gates, pre, *grads, W_r_x, U_x, W_z_x, W_r_y, U_y, W_z_y)


@tuning.remembered
def _backward_launches(call: Call, gx_of: int, gy_of: int, outside: bool, gates: bool) -> _Backward | None:
    """None for gates that were not kept and that no kernel makes again on chip."""
    choice = call.choose("backward", gx_of, gy_of, outside=int(outside), gates=int(gates))
    grads_of = {"GX_OF": gx_of, "GY_OF": gy_of}
    keep = {"KEEP": call.keep}
    if choice["kernel"] == "pair":
        common = {
            **call.constants(), **grads_of, **call.gate_arithmetic(), **call.channel_blocks(), **keep,
        }  # fmt: skip
        tiles = ceil_div(call.pixels, choice["pixels"])
        inputs = Planned(
            backward_kernels.input_gradients_pair, (call.programs(tiles, choice["programs"]),),
            (*call.sizes, tiles), {**common, **tile_constants(choice)},
        )  # fmt: skip
        tiles = ceil_div(call.pixels, choice["weight_pixels"])
        programs = call.programs(tiles, choice["weight_programs"], call.units)
        weights = Planned(
            backward_weights.weight_gradients_unit, (programs,), (*call.sizes, tiles),
            {**common, **tile_constants(choice, "weight_")},
        )  # fmt: skip
        chunks = programs // call.units
        return _Backward("pair", (inputs,), weights, chunks, _sum_launch(call, chunks))
    if not gates:
        return None
    if choice["kernel"] == "products":
        launches = _product_launches(call, choice, grads_of)
    else:
        constants = {
            **call.constants(), **grads_of, **call.arithmetic(), **keep, **tile_constants(choice),
            "BLOCK_N": call.columns(choice["columns"]), "BLOCK_K": call.step(choice["depth"]),
        }  # fmt: skip
        grid = (ceil_div(call.pixels, choice["pixels"]),)
        launches = (Planned(backward_kernels.input_gradients_fused, grid, call.sizes, constants),)
    of_weights = call.choose("weights", gx_of, gy_of, outside=int(outside), gates=1)
    cx, cy = (ceil_div(channels, of_weights["block"]) for channels in call.channels)
    products = (cx + cy) * (2 * cx + cy) + ((cx + cy) * (cx + 2 * cy) if call.pair else 0)
    steps = ceil_div(call.pixels, of_weights["pixels"])
    programs = call.programs(steps, of_weights["programs"], products)
    chunks = programs // products
    weights = Planned(
        backward_weights.weight_gradients, (programs,), (*call.sizes, chunks, steps),
        {**call.constants(), **call.arithmetic(), **tile_constants(of_weights), "BLOCK": of_weights["block"]},
    )  # fmt: skip
    return _Backward(choice["kernel"], launches, weights, chunks, _sum_launch(call, chunks))


def _product_launches(
    call: Call, choice: Mapping[str, Any], grads_of: Mapping[str, int]
) -> tuple[Planned, ...]:  # fmt: skip
    keep = {"KEEP": call.keep}
    # Per element: tiles of 2048, longest where memory is contiguous; a warp has 256.
    columns = min(128 if call.last else 32, next_power_of_two(max(call.channels)))
    pixels = min(LARGEST_TILE, 2048 // columns)
    tiles, of_x, of_y = call.tiles(pixels, columns)
    gates = Planned(
        backward_products.gate_gradients, (tiles * (of_x + (of_y if call.pair else 0)),), call.sizes,
        {
            **call.constants(), **grads_of, **keep, "BLOCK_P": pixels, "BLOCK_N": columns,
            "num_warps": max(1, pixels * columns // 256),
        },
    )  # fmt: skip
    common = {
        **call.shape_constants(),
        **call.arithmetic(),
        **tile_constants(choice),
        "BLOCK_K": choice["depth"],
    }
    columns = call.columns(choice["reset_columns"])
    tiles, of_x, of_y = call.tiles(choice["pixels"], columns)
    reset = Planned(
        backward_products.reset_gradients, (tiles * (of_y + (of_x if call.pair else 0)),), call.sizes,
        {**common, "BLOCK_N": columns, "X_OF": call.x_of, "Y_OF": call.y_of},
    )  # fmt: skip
    columns = call.columns(choice["columns"])
    tiles, of_x, of_y = call.tiles(choice["pixels"], columns)
    inputs = Planned(
        backward_products.input_gradients, (tiles * (of_x + of_y),), call.sizes,
        {**common, **grads_of, **keep, "BLOCK_N": columns},
    )  # fmt: skip
    return gates, reset, inputs


def _sum_launch(call: Call, chunks: int) -> Planned:
    cx, cy = call.channels
    rows = min(128, next_power_of_two(chunks))  # as many as can be: each further step waits for memory
    columns = min(256, 4096 // rows)
    grid = (ceil_div((cx + cy) * max(cx, cy), columns), 8 if call.pair else 4)
    return Planned(
        backward_weights.add_weight_parts, grid, (chunks,),
        {
            "CX": cx, "CY": cy, "PAIR": call.pair, "BLOCK": columns, "BLOCK_R": rows,
            "LOOPS": next_power_of_two(ceil_div(chunks, rows)), "num_warps": max(1, rows * columns // 512),
        },
    )  # fmt: skip
