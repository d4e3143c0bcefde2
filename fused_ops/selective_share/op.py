"""``fused_ops::selective_share``: schema, fakes, autograd, autocast, and how each backend is called.

The definition is :mod:`.reference`; the C++ path is ``csrc/selective_share/``. The op returns
``(x', y', gates)``, all gates in one tensor, in the memory format that :func:`.layout.gates_format` tells. It
takes what :mod:`.functional` has checked. Weights may be of another dtype than the features, as under
autocast: they are rounded to that of the features, and their gradients come in their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ops import backends, flops, native, triton_support
from fused_ops.casting import cast_together
from fused_ops.registration import define_op, differentiate_by_reference
from fused_ops.selective_share import flops as formulas
from fused_ops.selective_share import reference
from fused_ops.selective_share.layout import gates_format, working_format

# From so many channels (of x and y together) on, with fewer than so many pixels, large weights pass through
# narrow tiles: the reference's products of matrices are quicker, as measured on a Zen 4.
FEW_PIXELS = {
    torch.float32: ((2048, 48), (1024, 4)),
    torch.float64: ((2048, 48), (1024, 4)),
    torch.bfloat16: ((2048, 128), (1024, 32)),
}

_WEIGHTS = ", ".join(
    f"Tensor{mark} {name}_{unit}"
    for unit, mark in (("x", ""), ("y", "?"))
    for name in ("W_r", "W", "U", "W_z")
)
_FORWARD_SCHEMA = (
    f"(Tensor x, Tensor y, {_WEIGHTS}, bool keep, bool want_gates, bool save_gates) "
    "-> (Tensor, Tensor, Tensor)"
)
_BACKWARD_SCHEMA = (
    "(Tensor grad_x_out, Tensor? grad_y_out, Tensor? grad_gates, Tensor x, Tensor y, Tensor? gates, "
    f"{_WEIGHTS}, bool keep) -> ({', '.join(['Tensor'] * 10)})"
)


# --- the op -------------------------------------------------------------------------------------------------


def _fake_forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *weights, _keep, want_gates, _save_gates = rest
    pair = weights[4] is not None
    layout = working_format(x)
    x_out = torch.empty_like(x, memory_format=layout)
    y_out = torch.empty_like(y, memory_format=layout) if pair else x.new_empty(0)
    if not want_gates:
        return x_out, y_out, x.new_empty(0)
    gates = sum(reference.gate_sizes(x.shape[1], y.shape[1], pair))
    shape = (x.shape[0], gates, *x.shape[2:])
    return x_out, y_out, torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=gates_format(x, y))


def _fake_backward(
    grad_x_out: Tensor, grad_y_out: Any, grad_gates: Any, x: Tensor, y: Tensor, *rest: Any
) -> Any:
    weights = rest[1:9]
    plain = torch.contiguous_format
    grads = [
        x.new_empty(0) if weight is None else torch.empty_like(weight, memory_format=plain)
        for weight in weights
    ]
    layout = working_format(x)
    return torch.empty_like(x, memory_format=layout), torch.empty_like(y, memory_format=layout), *grads


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, keep, want_gates, save_gates = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2] if save_gates else None)
    ctx.keep, ctx.want_gates = keep, want_gates


def _backward(
    ctx: Any, grad_x_out: Tensor | None, grad_y_out: Tensor | None, grad_gates: Tensor | None
) -> Any:
    x, y, *weights, gates = ctx.saved_tensors
    pair = weights[4] is not None
    if not ctx.want_gates:  # the gates were returned empty
        grad_gates = None
    # A unit that nothing came of: optimizers are to leave it alone, which they do not for zeros.
    x_used = grad_x_out is not None or grad_gates is not None
    y_used = pair and (grad_y_out is not None or grad_gates is not None)
    if grad_x_out is None:
        grad_x_out = torch.zeros_like(x)
    if grad_y_out is None and pair:
        grad_y_out = torch.zeros_like(y)
    grads = selective_share_backward_op(
        grad_x_out, grad_y_out if pair else None, grad_gates, x, y, gates, *weights, ctx.keep
    )
    wanted = (True, True, *[x_used] * 4, *[y_used] * 4)
    found = [grad if needed else None for grad, needed in zip(grads, wanted, strict=True)]
    if weights[0].stride() != grads[2].stride():
        found[2:] = map(_with_strides_of, found[2:], weights)
    return *found, None, None, None


def _with_strides_of(grad: Tensor | None, weight: Tensor) -> Tensor | None:
    """A weight's gradient with its strides, should the weight be 1x1 and in channels_last.

    Those of its two last dimensions of one element mean nothing, but DDP compares them, and warns.
    """
    if grad is None or weight.stride() != (weight.shape[1], 1, weight.shape[1], weight.shape[1]):
        return grad
    return grad.view(weight.shape[0], 1, 1, -1).permute(0, 3, 1, 2)


def _autocast(dtype: torch.dtype, x: Tensor, y: Tensor, *rest: Any) -> tuple[Any, ...]:
    """The features in autocast's dtype; the backends cast the weights, all in one launch."""
    return *(value if value.dtype is torch.float64 else value.to(dtype) for value in (x, y)), *rest


# --- the backends -------------------------------------------------------------------------------------------


def _cast(weights: Sequence[Tensor | None], x: Tensor) -> Sequence[Tensor | None]:
    dtype = x.dtype
    for weight in weights:  # mostly there is nothing to cast, and small calls must not take long to see it
        if weight is not None and weight.dtype is not dtype:
            return cast_together(weights, (dtype,) * 8)
    return weights


def _cast_like(grads: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    return cast_together(grads, [None if weight is None else weight.dtype for weight in weights])


def _reference_forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights_and_keep, want_gates, _save_gates = rest
    x_out, y_out, gates = reference.forward(x, y, *weights_and_keep)
    layout = working_format(x)
    if y_out.dim() == 4:
        y_out = y_out.contiguous(memory_format=layout)
    gates = gates.contiguous(memory_format=gates_format(x, y)) if want_gates else x.new_empty(0)
    return x_out.contiguous(memory_format=layout), y_out, gates


def _reference_backward(*args: Any) -> tuple[Tensor, ...]:
    grad_x, grad_y, *grad_weights = reference.backward(*args)
    layout = working_format(args[3])
    return (
        grad_x.contiguous(memory_format=layout),
        grad_y.contiguous(memory_format=layout),
        *(grad.contiguous() for grad in grad_weights),
    )


def _native_forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    layout = working_format(x)
    x, y = x.contiguous(memory_format=layout), y.contiguous(memory_format=layout)
    *weights, keep, want_gates, _save_gates = rest
    return torch.ops.fused_ops_cpu.selective_share(x, y, *_cast(weights, x), keep, want_gates)


def _native_backward(*args: Any) -> tuple[Tensor, ...]:
    grad_x_out, grad_y_out, grad_gates, x, y, gates, *weights, keep = args
    layout = working_format(x)
    grads = torch.ops.fused_ops_cpu.selective_share_backward(
        grad_x_out.contiguous(memory_format=layout),
        None if grad_y_out is None else grad_y_out.contiguous(memory_format=layout),
        None if grad_gates is None else grad_gates.contiguous(memory_format=gates_format(x, y)),
        x.contiguous(memory_format=layout),
        y.contiguous(memory_format=layout),
        None if gates is None else gates.contiguous(memory_format=gates_format(x, y)),
        *_cast(weights, x),
        keep,
    )
    return *grads[:2], *_cast_like(grads[2:], weights)


def _native_refuses(x: Tensor, y: Tensor, W_r: Tensor, *_: Any) -> str | None:
    if x.device.type != "cpu":
        return f"the tensors are on {x.device}"
    if x.dtype not in native.CPU_DTYPES:
        return f"it has no kernel for {x.dtype}"
    if W_r.shape[2] != 1 or W_r.shape[3] != 1:
        return f"it has only 1x1 kernels, these are {W_r.shape[2]}x{W_r.shape[3]}"
    if x.numel() == 0 or y.numel() == 0:
        return "the tensors are empty"
    pixels, channels = x.numel() // x.shape[1], x.shape[1] + y.shape[1]
    few = next((few for many, few in FEW_PIXELS[x.dtype] if channels >= many), 0)
    if pixels < few and backends.requested() == "auto":
        return f"torch's own products are quicker for {pixels} pixels of {channels} channels"
    library = native.cpu_library()
    return None if library.loaded else library.reason


def _cuda_forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """The library works and answers in channels_last, and copies what comes otherwise."""
    *weights, keep, want_gates, _save_gates = rest
    x_out, y_out, gates = native.CUDA_OPS.selective_share.default(x, y, *_cast(weights, x), keep, want_gates)
    layout = working_format(x)
    if y_out.dim() == 4:
        y_out = y_out.contiguous(memory_format=layout)
    if want_gates:
        gates = gates.contiguous(memory_format=gates_format(x, y))
    return x_out.contiguous(memory_format=layout), y_out, gates


def _cuda_backward(*args: Any) -> tuple[Tensor, ...]:
    *tensors, keep = args
    x, weights = tensors[3], tensors[6:]
    grad_x, grad_y, *grad_weights = native.CUDA_OPS.selective_share_backward.default(
        *tensors[:6], *_cast(weights, x), keep
    )
    layout = working_format(x)
    grads = grad_x.contiguous(memory_format=layout), grad_y.contiguous(memory_format=layout)
    return *grads, *_cast_like(grad_weights, weights)


def _cuda_refuses(x: Tensor, y: Tensor, W_r: Tensor, *_: Any) -> str | None:
    if reason := native.why_not_cuda(x) or native.why_not_cuda(y):
        return reason
    if W_r.shape[2] != 1 or W_r.shape[3] != 1:
        return f"it has only 1x1 kernels, these are {W_r.shape[2]}x{W_r.shape[3]}"
    if x.numel() + y.numel() >= 2**31:
        return "it counts the elements of x and y in 31 bits"
    return None


_triton = functools.partial(triton_support.host_call, "selective_share.triton_launch")


def _triton_forward(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights, keep, want_gates, _save_gates = rest
    x_out, y_out, gates = _fake_forward(x, y, *rest)
    layout, fitting = working_format(x), _cast(weights, x)
    if not want_gates:
        _triton("forward", x, y, fitting, keep, None, (x_out, y_out), layout)
        return x_out, y_out, gates
    gates = gates.contiguous(memory_format=layout)
    _triton("forward", x, y, fitting, keep, gates, (x_out, y_out), layout)
    return x_out, y_out, gates.contiguous(memory_format=gates_format(x, y))


def _triton_backward(*args: Any) -> tuple[Tensor, ...]:
    """The sum of the weights' parts writes their gradients in whatever dtype these have."""
    grads: tuple[Tensor, ...] = _fake_backward(*args)
    *given, keep = args
    x, weights = given[3], given[6:]
    _triton("backward", *given[:6], _cast(weights, x), keep, grads, working_format(x))
    return grads


def _triton_refuses(x: Tensor, y: Tensor, W_r: Tensor, *_: Any) -> str | None:
    if W_r.shape[2] != 1 or W_r.shape[3] != 1:
        return f"it has only 1x1 kernels, these are {W_r.shape[2]}x{W_r.shape[3]}"
    if reason := triton_support.why_not(x, y):
        return reason
    # The widest tensor of a call, the gates and what goes with them, has 4 (Cx + Cy) channels. The last of
    # several chunks of pixels may end far beyond them.
    plane = x.shape[2] * x.shape[3]
    if 8 * (x.shape[1] + y.shape[1]) * plane >= 2**31 or x.shape[0] * plane > 2**30:
        return "it counts the elements of an image, and the pixels of all images, in 31 bits"
    return None


selective_share_backward_op = define_op(
    "selective_share_backward",
    _BACKWARD_SCHEMA,
    fake=_fake_backward,
    **differentiate_by_reference(reference.backward),
)
selective_share_op = define_op(
    "selective_share",
    _FORWARD_SCHEMA,
    fake=_fake_forward,
    setup_context=_setup_context,
    backward=_backward,
    autocast=_autocast,
)
flops.register("selective_share", formulas.forward)
flops.register("selective_share_backward", formulas.backward)


def _of_backward(refuses: Callable[..., str | None]) -> Callable[..., str | None]:
    """The same reasons, for the arguments of the backward."""
    return lambda _gx, _gy, _gg, x, y, _gates, W_r, *_: refuses(x, y, W_r)


backends.register("selective_share", "reference", _reference_forward)
backends.register("selective_share_backward", "reference", _reference_backward)
for _name, _run, _run_backward, _refuses in (
    ("cpu", _native_forward, _native_backward, _native_refuses),
    ("cuda", _cuda_forward, _cuda_backward, _cuda_refuses),
    ("triton", _triton_forward, _triton_backward, _triton_refuses),
):
    backends.register("selective_share", _name, _run, _refuses)
    backends.register("selective_share_backward", _name, _run_backward, _of_backward(_refuses))
