"""``norm_act`` with 2 x 2 max-pooling in the same pass: the un-pooled result is never written.

    y = activation(maxpool(z)),    z as in :mod:`fused_ops.norm_act.reference`

which is ``maxpool(activation(z))`` for the activations here, none of which decreases. Two registered ops:
``norm_act_pool``, which also tells which pixel of each square was the largest, and
``norm_act_pool_backward``, which turns the gradient of y into that of z; the rest of the backward is
``norm_act_backward``'s.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_ops import backends, native
from fused_ops.activations import ACTIVATIONS, BY_INDEX
from fused_ops.norm_act import reference
from fused_ops.norm_act.layout import memory_format, statistics_dtype, statistics_size
from fused_ops.norm_act.op import (
    beyond_triton,
    cuda_refuses,
    fitting,
    kept_statistics,
    native_refuses,
    norm_act_backward_op,
    triton_refuses,
    with_groups,
)
from fused_ops.registration import define_op, differentiate_by_reference
from fused_ops.triton_support import host_call

# --- the definition -----------------------------------------------------------------------------------------


def norm_act_pool(
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
    """Forward: y [N, C, H // 2, W // 2], mean and var as in ``norm_act``, and the winners.

    A winner, uint8 of y's shape, is the place of the largest z in its square, 0 to 3 row by row, the first of
    equal ones; without ``need_winner`` there are none. An odd last row or column is left out.
    """
    z, mean, var = reference.preactivation(x, gamma, beta, residual, None, None, mean, var, groups, eps)
    z, index = F.max_pool2d(z, 2, return_indices=True)
    y = BY_INDEX[activation].function(z, slope).to(x.dtype).contiguous(memory_format=memory_format(x))
    if not need_winner:
        return y, mean, var, y.new_empty(0, dtype=torch.uint8)
    row, column = index // x.size(3), index % x.size(3)
    winner = (row % 2 * 2 + column % 2).to(torch.uint8)
    return y, mean, var, winner.contiguous(memory_format=memory_format(x))


def norm_act_pool_backward(
    grad: Tensor, y: Tensor | None, winner: Tensor, height: int, width: int, activation: int, slope: float
) -> Tensor:
    """The gradient of z [N, C, height, width] from that of y, y itself (where needed) and the winners."""
    row = BY_INDEX[activation]
    if y is not None and row.backward_needs == "output":
        wide = statistics_dtype(grad.dtype)
        grad = (grad.to(wide) * row.derivative(y.to(wide), slope)).to(grad.dtype)
    parts = [grad * (winner == place) for place in range(4)]
    rows = [torch.stack(pair, dim=-1).flatten(-2) for pair in (parts[:2], parts[2:])]
    z = torch.stack(rows, dim=-2).flatten(-3, -2)
    z = F.pad(z, (0, width - z.size(-1), 0, height - z.size(-2)))
    return z.contiguous(memory_format=memory_format(winner))


# --- the ops ------------------------------------------------------------------------------------------------


def _fake(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    given, groups, need_winner = args[3] is not None, args[5], args[-1]
    size = 0 if given else statistics_size(x, groups)
    mean, var = (x.new_empty(size, dtype=statistics_dtype(x.dtype)) for _ in range(2))
    shape = (*x.shape[:2], x.size(2) // 2, x.size(3) // 2)
    y, winner = (
        torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format(x))
        for dtype in (x.dtype, torch.uint8)
    )
    return y, mean, var, winner if need_winner else x.new_empty(0, dtype=torch.uint8)


def _unpool_fake(grad: Tensor, y: Tensor | None, winner: Tensor, height: int, width: int, *_: Any) -> Tensor:
    return torch.empty(
        (*grad.shape[:2], height, width),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=memory_format(winner),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gamma, beta, _, mean, var, *ctx.constants, need_winner = inputs
    y, mean_used, var_used, winner = output
    if ctx.needs_input_grad[4] or ctx.needs_input_grad[5]:
        raise RuntimeError("norm_act: given mean and var are constants; detach them, they get no gradient")
    if any(ctx.needs_input_grad) and not need_winner:
        raise RuntimeError("norm_act_pool: need_winner must be True where a gradient is wanted")
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean_used, var_used, winner)
    ctx.given = mean is not None
    mean, var = kept_statistics(mean, var, mean_used, var_used)
    evidence = y if BY_INDEX[ctx.constants[2]].backward_needs == "output" else None
    ctx.save_for_backward(x, evidence, winner, gamma, beta, mean, var)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    found: list[Tensor | None] = [None] * len(wanted)
    if grad is None:
        return tuple(found)
    x, evidence, winner, gamma, beta, mean, var = ctx.saved_tensors
    groups, eps, activation, slope = ctx.constants
    grad_z = norm_act_pool_backward_op(grad, evidence, winner, x.size(2), x.size(3), activation, slope)
    if wanted[3]:
        found[3] = grad_z
    if any(wanted[:3]):
        identity = ACTIVATIONS["identity"].index
        grads = norm_act_backward_op(
            grad_z, x, None, gamma, beta, None, None, None, mean, var, ctx.given,
            groups, eps, identity, 0.0, False, wanted[0], wanted[1] or wanted[2], False, False, False,
        )  # fmt: skip
        found[:3] = [value if needed else None for value, needed in zip(grads[:3], wanted[:3], strict=True)]
    return tuple(found)


def _autocast(dtype: torch.dtype, *args: Any) -> tuple[Any, ...]:
    x, gamma, beta, residual, *others = args
    return x, *fitting(x, (gamma, beta), (residual,)), *others


norm_act_pool_backward_op = define_op(
    "norm_act_pool_backward",
    "(Tensor grad, Tensor? y, Tensor winner, int height, int width, int activation, float slope) -> Tensor",
    fake=_unpool_fake,
    **differentiate_by_reference(norm_act_pool_backward),
)
norm_act_pool_op = define_op(
    "norm_act_pool",
    "(Tensor x, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor? mean, Tensor? var, int groups,"
    " float eps, int activation, float slope, bool need_winner)"
    " -> (Tensor y, Tensor mean_used, Tensor var_used, Tensor winner)",
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=_autocast,
)

# --- the backends -------------------------------------------------------------------------------------------


def _cuda_unpool_refuses(grad: Tensor, *_: Any) -> str | None:
    return cuda_refuses(grad, None, None, 0)


def _triton_unpool_refuses(
    grad: Tensor, y: Tensor | None, winner: Tensor, height: int, width: int, *_: Any
) -> str | None:
    """The gradient of z, which is written, has four times the pixels of the one that comes."""
    return triton_refuses(grad, None, None, 0) or beyond_triton(grad.size(0) * height * width)


backends.register("norm_act_pool", "reference", norm_act_pool)
backends.register("norm_act_pool_backward", "reference", norm_act_pool_backward)
backends.register(
    "norm_act_pool", "cpu", lambda *args: torch.ops.fused_ops_cpu.norm_act_pool.default(*args), native_refuses
)
backends.register(
    "norm_act_pool_backward",
    "cpu",
    lambda *args: torch.ops.fused_ops_cpu.norm_act_pool_backward.default(*args),
    native_refuses,
)
backends.register(
    "norm_act_pool",
    "cuda",
    lambda *args: native.CUDA_OPS.norm_act_pool.default(*args),
    with_groups(cuda_refuses, mean=4),
)
backends.register(
    "norm_act_pool_backward",
    "cuda",
    lambda *args: native.CUDA_OPS.norm_act_pool_backward.default(*args),
    _cuda_unpool_refuses,
)
backends.register(
    "norm_act_pool",
    "triton",
    lambda *args: host_call("norm_act.triton_pool", "forward", *args),
    with_groups(triton_refuses, mean=4),
)
backends.register(
    "norm_act_pool_backward",
    "triton",
    lambda *args: host_call("norm_act.triton_pool", "unpool", *args),
    _triton_unpool_refuses,
)
