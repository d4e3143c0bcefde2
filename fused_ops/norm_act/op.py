"""``fused_ops::norm_act`` and its backward as registered ops: schema, fake, autograd, autocast, backends.

The functional twins of :mod:`fused_ops.norm_act.functional` check the arguments; what is here trusts them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ops import backends, native, triton_support
from fused_ops.activations import BY_INDEX
from fused_ops.norm_act import reference
from fused_ops.norm_act.layout import memory_format, statistics_dtype, statistics_size
from fused_ops.registration import define_op, differentiate_by_reference
from fused_ops.triton_support import host_call

_SCHEMA = (
    "(Tensor x, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor? noise, Tensor? noise_scale,"
    " Tensor? mean, Tensor? var, int groups, float eps, int activation, float slope, bool inplace)"
    " -> (Tensor y, Tensor mean_used, Tensor var_used)"
)
_BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor x, Tensor? y, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor? noise,"
    " Tensor? noise_scale, Tensor mean, Tensor var, bool given, int groups, float eps, int activation,"
    " float slope, bool restore, bool need_x, bool need_affine, bool need_residual, bool need_noise,"
    " bool need_noise_scale)"
    " -> (Tensor grad_x, Tensor grad_gamma, Tensor grad_beta, Tensor grad_residual, Tensor grad_noise,"
    " Tensor grad_noise_scale)"
)


def _fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, groups = args[5], args[7]
    size = 0 if mean is not None else statistics_size(x, groups)
    mean, var = (x.new_empty(size, dtype=statistics_dtype(x.dtype)) for _ in range(2))
    return torch.empty_like(x, memory_format=memory_format(x)), mean, var


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    *args: Any,
) -> tuple[Tensor, ...]:
    need_x, need_affine, need_residual, need_noise, need_noise_scale = args[-5:]

    def like(template: Tensor | None, needed: bool) -> Tensor:
        if template is None or not needed:
            return x.new_empty(0)
        return torch.empty_like(template, memory_format=torch.contiguous_format)

    def like_x(needed: bool) -> Tensor:
        return torch.empty_like(x, memory_format=memory_format(x)) if needed else x.new_empty(0)

    return (
        like_x(need_x),
        like(gamma, need_affine),
        like(beta, need_affine),
        like_x(need_residual),
        like(noise, need_noise),
        like(noise_scale, need_noise_scale),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, beta, residual, noise, noise_scale, mean, var, *ctx.constants = inputs
    y, mean_used, var_used = output
    if ctx.needs_input_grad[6] or ctx.needs_input_grad[7]:
        raise RuntimeError("norm_act: given mean and var are constants; detach them, they get no gradient")
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean_used, var_used)
    ctx.given = mean is not None
    mean, var = kept_statistics(mean, var, mean_used, var_used)
    *ctx.constants, ctx.inplace = ctx.constants
    if ctx.inplace:
        ctx.save_for_backward(y, None, gamma, beta, None, None, None, mean, var)
        return
    # z is computed again from x where the derivative needs it. With a residual that would need the residual
    # too: y takes its place where the derivative follows from y (which the next layer mostly keeps anyway).
    needs = BY_INDEX[ctx.constants[2]].backward_needs
    saved_y = y if residual is not None and needs == "output" else None
    saved_residual = residual if needs == "input" else None
    ctx.save_for_backward(x, saved_y, gamma, beta, saved_residual, noise, noise_scale, mean, var)


def kept_statistics(
    mean: Tensor | None, var: Tensor | None, mean_used: Tensor, var_used: Tensor
) -> tuple[Tensor, Tensor]:
    """What the backward is to find: of given ones copies, which the next training step does not move."""
    return (mean_used, var_used) if mean is None or var is None else (mean.clone(), var.clone())


_CONSTANTS = (None,) * 7  # the gradients of mean, var and the arguments that are no tensors


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    if grad is None:
        return (None,) * len(wanted)
    grads = norm_act_backward_op(
        grad,
        *ctx.saved_tensors,
        ctx.given,
        *ctx.constants,
        ctx.inplace,
        wanted[0],
        wanted[1] or wanted[2],
        *wanted[3:6],
    )
    return *[found if needed else None for found, needed in zip(grads, wanted, strict=False)], *_CONSTANTS


def _autocast(dtype: torch.dtype, *args: Any) -> tuple[Any, ...]:
    x, gamma, beta, residual, noise, noise_scale, *others = args
    gamma, beta, noise_scale, residual, noise = fitting(x, (gamma, beta, noise_scale), (residual, noise))
    return x, gamma, beta, residual, noise, noise_scale, *others


def fitting(
    x: Tensor, small: Sequence[Tensor | None], large: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """x keeps its dtype, as in torch's batch norm under autocast; what does not fit it follows."""
    fits = (x.dtype, statistics_dtype(x.dtype))
    return (
        *(value if value is None or value.dtype in fits else value.to(x.dtype) for value in small),
        *(value if value is None else value.to(x.dtype) for value in large),
    )


norm_act_backward_op = define_op(
    "norm_act_backward",
    _BACKWARD_SCHEMA,
    fake=_backward_fake,
    **differentiate_by_reference(reference.norm_act_backward_through_statistics),
)
norm_act_op = define_op(
    "norm_act", _SCHEMA, fake=_fake, setup_context=_setup_context, backward=_backward, autocast=_autocast
)

# --- the backends -------------------------------------------------------------------------------------------

RESTORE = 15  # the position of `restore` among the backward's arguments


def native_refuses(x: Tensor, *_: Any) -> str | None:
    if x.device.type != "cpu":
        return f"the tensors are on {x.device}"
    if x.dtype not in native.CPU_DTYPES:
        return f"it has no kernel for {x.dtype}"
    library = native.cpu_library()
    return None if library.loaded else library.reason


def _forward(compute: Callable[..., tuple[Tensor, ...]], *args: Any) -> tuple[Tensor, ...]:
    """What is kept for the backward makes no difference to the kernels."""
    *others, _inplace = args
    return compute(*others)


def _native_forward(*args: Any) -> tuple[Tensor, ...]:
    return _forward(torch.ops.fused_ops_cpu.norm_act.default, *args)


def _native_backward(*args: Any) -> tuple[Tensor, ...]:
    return _with_noise(torch.ops.fused_ops_cpu.norm_act_backward.default, _restorable(args))


def _restorable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The backward's arguments for kernels that have no logarithm: where y of elu holds x's place, x."""
    if not args[RESTORE] or BY_INDEX[args[RESTORE - 2]].name != "elu":
        return args
    grad, y, _, gamma, beta, *others = args
    x = reference.restored_input(y, gamma, beta, *args[8:15]).to(y.dtype)
    restored = [grad, x, None, gamma, beta, *others]
    restored[RESTORE] = False
    return tuple(restored)


def _with_noise(backward: Any, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The libraries leave the noise's gradient, which hardly anyone asks for, to be summed from that of x."""
    *others, need_x, need_affine, need_residual, need_noise, need_noise_scale = args
    if not need_noise:
        return backward(*args)
    noise, noise_scale = args[6:8]
    grads = list(backward(*others, True, need_affine, need_residual, False, need_noise_scale))
    over_channels = grads[0].sum(1, keepdim=True, dtype=statistics_dtype(noise.dtype))
    grads[4] = (over_channels * noise_scale).to(noise.dtype)
    if not need_x:
        grads[0] = noise.new_empty(0)
    return tuple(grads)


def _cuda_forward(*args: Any) -> tuple[Tensor, ...]:
    return _forward(native.CUDA_OPS.norm_act.default, *args)


def _cuda_backward(*args: Any) -> tuple[Tensor, ...]:
    return _with_noise(native.CUDA_OPS.norm_act_backward.default, _gpu_restorable(args))


def _gpu_restorable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """:func:`_restorable` for kernels that cannot say that gamma is too small."""
    args = _restorable(args)
    if args[RESTORE]:
        reference.check_restorable(args[1].dtype, *args[3:5])
    return args


def _triton_forward(*args: Any) -> tuple[Tensor, ...]:
    return _forward(functools.partial(host_call, "norm_act.triton_launch", "forward"), *args)


def _triton_backward(*args: Any) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = host_call("norm_act.triton_launch", "backward", *_gpu_restorable(args))
    return found


def _gpu_refuses(gamma: Tensor | None, beta: Tensor | None, groups: int) -> str | None:
    """What neither of the GPU's backends takes."""
    per_sample = [value.dim() == 2 for value in (gamma, beta) if value is not None]
    if any(per_sample) and not (groups and all(per_sample)):
        return "it takes gamma and beta per sample only together, and with statistics per sample"
    return None


def cuda_refuses(x: Tensor, gamma: Tensor | None, beta: Tensor | None, groups: int) -> str | None:
    if reason := native.why_not_cuda(x) or _gpu_refuses(gamma, beta, groups):
        return reason
    if max(x.numel() // x.size(1), x.size(0) * x.size(1)) >= 2**30:
        return "it counts the pixels and the planes of a tensor in 30 bits"
    return None


def triton_refuses(x: Tensor, gamma: Tensor | None, beta: Tensor | None, groups: int) -> str | None:
    if reason := triton_support.why_not(x) or _gpu_refuses(gamma, beta, groups):
        return reason
    planes = x.size(0) * x.size(1) if groups else 0  # each has statistics, and a place in 32 bits
    return beyond_triton(x.numel() // x.size(1), planes)


def beyond_triton(pixels: int, planes: int = 0) -> str | None:
    """Why Triton's kernels cannot count so many pixels or planes, or None where they can."""
    if max(pixels, planes) > 2**31 - 2**16:  # the last program may count so much further
        return "it counts the pixels and the planes of a tensor in 31 bits"
    return None


def with_groups(refuses: Callable[..., str | None], mean: int) -> Callable[..., str | None]:
    """``refuses`` of x, gamma, beta and the groups, for a forward whose argument ``mean`` is the given mean.

    Where that is given no group has statistics of its own.
    """
    return lambda *args: refuses(*args[:3], args[mean + 2] if args[mean] is None else 0)


def _of_backward(refuses: Callable[..., str | None]) -> Callable[..., str | None]:
    return lambda grad, x, y, gamma, beta, *rest: refuses(x, gamma, beta, 0 if rest[5] else rest[6])


def _restores_nothing(*args: Any) -> bool:
    """Restoring x asks whether gamma is large enough, which a graph cannot."""
    return not args[RESTORE]


backends.register("norm_act", "reference", reference.norm_act)
backends.register(
    "norm_act_backward", "reference", reference.norm_act_backward, may_be_shown=_restores_nothing
)
backends.register("norm_act", "cpu", _native_forward, native_refuses)
backends.register("norm_act_backward", "cpu", _native_backward, lambda grad, x, *_: native_refuses(x))
for _name, _run, _run_backward, _refuses in (
    ("cuda", _cuda_forward, _cuda_backward, cuda_refuses),
    ("triton", _triton_forward, _triton_backward, triton_refuses),
):
    backends.register("norm_act", _name, _run, with_groups(_refuses, mean=6))
    backends.register(
        "norm_act_backward", _name, _run_backward, _of_backward(_refuses), may_be_shown=_restores_nothing
    )
