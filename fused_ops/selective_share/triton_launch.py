"""The Triton backend of ``selective_share``: which kernels serve a call, in which launches.

Imported when the backend is first used. What is chosen is in the launch tables of :mod:`fused_ops.tuning`,
families ``selective_share.forward``, ``.backward`` and ``.weights``; ``kernel`` in them is

    forward     "resident", "unit" (:mod:`.triton_kernels`) or "products" (:mod:`.triton_products`)
    backward    "pair" (:mod:`.triton_backward_kernels` and, for the weights, with parameters that begin with
                weight_, :mod:`.triton_backward_weights`), "unit" (:mod:`.triton_backward_kernels`) or
                "products" (:mod:`.triton_backward_products`)
    weights     "products" (:mod:`.triton_backward_weights`), after the backward's "unit" or "products"

Where no gates were kept (the fact ``gates`` is 0) "pair" makes them again on chip; before any other kernels
the forward makes them, in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ops.selective_share import triton_backward_kernels as backward_kernels
from fused_ops.selective_share import triton_backward_products as backward_products
from fused_ops.selective_share import triton_backward_weights as backward_weights
from fused_ops.selective_share import triton_kernels, triton_products
from fused_ops.selective_share.triton_plan import LARGEST_TILE, Call, slice_of
from fused_ops.triton_support import (
    ceil_div,
    launch,
    next_power_of_two,
    on_device,
)

Weights = Sequence[Tensor | None]


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
    call = Call.of(x, y, weights[4] is not None, keep, layout)
    choice = call.choose("forward", gates=int(gates is not None))
    weights = [None if weight is None else weight.contiguous() for weight in weights]
    if outputs is None and choice["kernel"] != "products":
        outputs = call.empty(x.size(1)), call.empty(y.size(1))
    x_out, y_out = outputs if outputs is not None else (None, None)
    tiles = ceil_div(call.pixels, choice["pixels"])
    common = {
        **call.constants(), **call.gate_arithmetic(), "BLOCK_P": choice["pixels"],
        "STAGES": choice["stages"], "num_stages": choice["stages"], "num_warps": choice["warps"],
    }  # fmt: skip
    with on_device(x):
        if choice["kernel"] == "products":
            _forward_by_products(call, choice, common, weights, gates, x_out, y_out)
        elif choice["kernel"] == "resident":
            launch(
                triton_kernels.forward_resident, (call.programs(tiles, choice["programs"], call.units),),
                call.x, call.y, x_out, y_out, gates, *weights, *call.sizes, tiles,
                **common, **call.channel_blocks(), KEEP=keep,
            )  # fmt: skip
        else:
            launch(
                triton_kernels.forward_unit, (2 * tiles,),
                call.x, call.y, x_out, y_out, gates, *weights, *call.sizes,
                **common, **call.channel_blocks(), KEEP=keep, BLOCK_N=call.step(choice["columns"]),
            )  # fmt: skip


def _forward_by_products(
    call: Call, choice: Mapping[str, Any], common: Mapping[str, Any], weights: Weights, gates: Tensor | None,
    x_out: Tensor | None, y_out: Tensor | None,
) -> None:  # fmt: skip
    cx, cy = call.channels
    kept = gates is not None
    if gates is None:  # z, on its way from one kernel to the next, as r.s in passed
        gates = call.empty(cx + cy if call.pair else cx)
    passed = call.empty(cx + cy if call.pair else cy)
    W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y = weights
    columns = call.columns(choice["columns"])
    tiles, of_x, of_y = _tiles(call, choice["pixels"], columns)
    blocks = {"BLOCK_N": columns, "BLOCK_K": choice["depth"], "KEPT": kept}
    launch(
        triton_products.update_gates, (tiles * (of_x + of_y) * (2 if call.pair else 1),),
        call.x, call.y, gates, passed, W_r_x, W_z_x, W_r_y, W_z_y, *call.sizes, **common, **blocks,
    )  # fmt: skip
    launch(
        triton_products.candidate_and_mix, (tiles * (of_x + (of_y if call.pair else 0)),),
        call.x, call.y, x_out, y_out, gates, passed, W_x, U_x, W_y, U_y, *call.sizes,
        **common, **blocks, KEEP=call.keep,
    )  # fmt: skip


# --- backward -----------------------------------------------------------------------------------------------


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
    call = Call.of(x, y, weights[4] is not None, keep, layout)
    weights = [None if weight is None else weight.contiguous() for weight in weights]
    grad_gates, gates = (
        value if value is None else value.contiguous(memory_format=layout) for value in (grad_gates, gates)
    )
    grad_x_out, gx_of = slice_of(grad_x_out, layout)
    gy_of = y.size(1)
    if grad_y_out is not None:
        grad_y_out, gy_of = slice_of(grad_y_out, layout)
    grads_of = {"GX_OF": gx_of, "GY_OF": gy_of}
    outside = int(grad_gates is not None)

    def choose(family: str, gates: Tensor | None) -> Mapping[str, Any]:
        return call.choose(family, gx_of, gy_of, outside=outside, gates=int(gates is not None))

    with on_device(x):
        choice = choose("backward", gates)
        if gates is None and choice["kernel"] != "pair":
            gates = call.empty(call.gate_channels)
            forward(x, y, weights, keep, gates, None, layout)
            choice = choose("backward", gates)
        given = (grad_x_out, grad_y_out, gates, grad_gates)
        if choice["kernel"] == "pair":
            parts = _backward_by_pair(call, choice, given, weights, grads[:2], grads_of)
        else:
            pre = call.empty(call.gate_channels + call.reset_channels)
            if choice["kernel"] == "products":
                _input_gradients_by_products(call, choice, given, pre, weights, grads[:2], grads_of)
            else:
                launch(
                    backward_kernels.input_gradients_unit, (2 * ceil_div(call.pixels, choice["pixels"]),),
                    call.x, call.y, *given, pre, *grads[:2], *weights, *call.sizes,
                    **call.constants(), **grads_of, **call.arithmetic(), **call.channel_blocks(), KEEP=keep,
                    BLOCK_P=choice["pixels"], BLOCK_K=call.step(choice["depth"]), STAGES=choice["stages"],
                    num_stages=choice["stages"], num_warps=choice["warps"],
                )  # fmt: skip
            parts = _weight_parts_by_products(call, choose("weights", gates), pre)
        _add_weight_parts(call, parts, grads[2:])


def _backward_by_pair(
    call: Call, choice: Mapping[str, Any], given: tuple[Tensor | None, ...], weights: Weights,
    grads: Sequence[Tensor], grads_of: Mapping[str, int],
) -> Tensor:  # fmt: skip
    """The gradients of x and y, and the parts of those of the weights."""
    before_r = None if given[2] is None else call.empty(call.reset_channels)
    common = {
        **call.constants(), **grads_of, **call.gate_arithmetic(), **call.channel_blocks(), "KEEP": call.keep,
    }  # fmt: skip

    def tiles_and_shape(prefix: str) -> tuple[int, dict[str, Any]]:
        pixels, stages = choice[f"{prefix}pixels"], choice[f"{prefix}stages"]
        return ceil_div(call.pixels, pixels), {
            "BLOCK_P": pixels, "STAGES": stages, "num_stages": stages, "num_warps": choice[f"{prefix}warps"],
        }  # fmt: skip

    tiles, shape = tiles_and_shape("")
    launch(
        backward_kernels.input_gradients_pair, (call.programs(tiles, choice["programs"]),),
        call.x, call.y, *given, before_r, *grads, *weights, *call.sizes, tiles, **common, **shape,
    )  # fmt: skip
    tiles, shape = tiles_and_shape("weight_")
    programs = call.programs(tiles, choice["weight_programs"], call.units)
    parts = call.weight_parts(programs // call.units)
    launch(
        backward_weights.weight_gradients_unit, (programs,),
        call.x, call.y, *given, before_r, parts, *weights, *call.sizes, tiles, **common, **shape,
    )  # fmt: skip
    return parts


def _input_gradients_by_products(
    call: Call, choice: Mapping[str, Any], given: tuple[Tensor | None, ...], pre: Tensor, weights: Weights,
    grads: Sequence[Tensor], grads_of: Mapping[str, int],
) -> None:  # fmt: skip
    grad_x_out, grad_y_out, gates, grad_gates = given
    grad_x, grad_y = grads
    W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y = weights
    shapes = call.shape_constants()
    # Per element: tiles of 2048, longest where memory is contiguous; a warp has 256.
    columns = min(128 if shapes["LAST"] else 32, next_power_of_two(max(call.channels)))
    pixels = min(LARGEST_TILE, 2048 // columns)
    tiles, of_x, of_y = _tiles(call, pixels, columns)
    launch(
        backward_products.gate_gradients, (tiles * (of_x + (of_y if call.pair else 0)),),
        call.x, call.y, grad_x_out, grad_y_out, gates, grad_gates, pre, *call.sizes,
        **call.constants(), **grads_of, KEEP=call.keep, BLOCK_P=pixels, BLOCK_N=columns,
        num_warps=max(1, pixels * columns // 256),
    )  # fmt: skip

    def blocks(columns: int) -> dict[str, Any]:
        return {
            **shapes, **call.arithmetic(), "BLOCK_P": choice["pixels"], "BLOCK_N": columns,
            "BLOCK_K": choice["depth"], "STAGES": choice["stages"], "num_stages": choice["stages"],
            "num_warps": choice["warps"],
        }  # fmt: skip

    columns = call.columns(choice["reset_columns"])
    tiles, of_x, of_y = _tiles(call, choice["pixels"], columns)
    launch(
        backward_products.reset_gradients, (tiles * (of_y + (of_x if call.pair else 0)),),
        call.x, call.y, gates, grad_gates, pre, grad_x, grad_y, W_x, W_y, *call.sizes,
        **blocks(columns), X_OF=call.x_of, Y_OF=call.y_of,
    )  # fmt: skip
    columns = call.columns(choice["columns"])
    tiles, of_x, of_y = _tiles(call, choice["pixels"], columns)
    launch(
        backward_products.input_gradients, (tiles * (of_x + of_y),),
        grad_x_out, grad_y_out, gates, pre, grad_x, grad_y, W_r_x, U_x, W_z_x, W_r_y, U_y, W_z_y, *call.sizes,
        **blocks(columns), **grads_of, KEEP=call.keep,
    )  # fmt: skip


def _tiles(call: Call, pixels: int, columns: int) -> tuple[int, int, int]:
    """Tiles of pixels, of x's channels, of y's channels."""
    cx, cy = call.channels
    return ceil_div(call.pixels, pixels), ceil_div(cx, columns), ceil_div(cy, columns)


def _weight_parts_by_products(call: Call, choice: Mapping[str, Any], pre: Tensor) -> Tensor:
    cx, cy = (ceil_div(channels, choice["block"]) for channels in call.channels)
    products = (cx + cy) * (2 * cx + cy) + ((cx + cy) * (cx + 2 * cy) if call.pair else 0)
    steps = ceil_div(call.pixels, choice["pixels"])
    programs = call.programs(steps, choice["programs"], products)
    parts = call.weight_parts(programs // products)
    launch(
        backward_weights.weight_gradients, (programs,),
        call.x, call.y, pre, parts, *call.sizes, parts.size(0), steps,
        **call.constants(), **call.arithmetic(), BLOCK_P=choice["pixels"], BLOCK=choice["block"],
        STAGES=choice["stages"], num_stages=choice["stages"], num_warps=choice["warps"],
    )  # fmt: skip
    return parts


def _add_weight_parts(call: Call, parts: Tensor, grads: Sequence[Tensor]) -> None:
    cx, cy = call.channels
    chunks = parts.size(0)
    rows = min(128, next_power_of_two(chunks))  # as many as can be: each further step waits for memory
    columns = min(256, 4096 // rows)
    launch(
        backward_weights.add_weight_parts,
        (ceil_div((cx + cy) * max(cx, cy), columns), 8 if call.pair else 4),
        parts, *(grads if call.pair else (*grads[:4], None, None, None, None)), chunks,
        CX=cx, CY=cy, PAIR=call.pair, BLOCK=columns, BLOCK_R=rows,
        LOOPS=next_power_of_two(ceil_div(chunks, rows)), num_warps=max(1, rows * columns // 512),
    )  # fmt: skip
