"""How every op of this package enters ``torch.library``: one mechanism, so that all of them behave alike.

An op is defined with a schema and a fake (shapes without data, for ``torch.compile`` and ``torch.export``).
What it computes is asked of :mod:`fused_ops.backends` at run time, so one exported graph serves every
backend; what torch.compile sees of it is told in :mod:`fused_ops.tracing`. On top come

* autograd: a context setter and a backward that calls another registered op;
* second derivatives: :func:`differentiate_by_reference`, through the plain PyTorch formula of a backward op;
* the derivatives of ``torch.func`` and of forward mode: the op's definition in plain PyTorch takes its place,
  whichever backend is asked for;
* ``torch.onnx.export`` of a model: the definition, too;
* vmap: a loop over the mapped dimension, for any op (what ``is_grads_batched`` and torchjd need);
* autocast: one function from arguments to arguments.

The way through the dispatcher costs more than a small call's work. So a plain eager call, where no mode,
transform or subclass wants to see the op, goes straight from the functional twin to the backend, with the
same context setter and backward, and under autocast with its arguments: see :func:`is_watched`. It has the
op's name in a profile all the same, which shows the way that is taken without one: its time is asked for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
    peek_interpreter_stack,
)
from torch._C._profiler import _RecordFunctionFast
from torch.autograd import forward_ad, profiler

from fused_ops import backends, tracing

NAMESPACE = "fused_ops"
AUTOCAST_DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

_PLAIN_TENSORS = frozenset({Tensor, torch.nn.Parameter})
_NO_TENSORS = frozenset({type(None), bool, int, float})

_library = torch.library.Library(NAMESPACE, "DEF")


def define_op(
    name: str,
    schema: str,
    *,
    fake: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    autocast: Callable[..., Sequence[Any]] | None = None,
) -> Any:
    """Define ``fused_ops::name`` and return what calls it: its overload, or a short cut to the same results.

    Args:
        name: the op's name, also its name in :mod:`fused_ops.backends`.
        schema: arguments and results, ``"(Tensor x, ...) -> (Tensor, Tensor)"``.
        fake: takes the arguments, returns empty results of the right shape, dtype and strides.
        setup_context, backward: as in ``torch.library.register_autograd``.
        autocast: takes ``(dtype, *args)`` where autocast is on and returns the arguments to call the op with.
    """
    overload = _add_overload(name, "default", schema, fake, setup_context, backward, autocast)
    traced = _add_overload(
        name,
        tracing.OVERLOAD,
        tracing.traced_schema(schema),
        functools.partial(tracing.without_by, fake),
        *tracing.traced_autograd(setup_context, backward, len(overload._schema.arguments)),
        autocast,
    )
    tracing.show_inside(_library, name)

    def through_dispatcher(*args: Any) -> Any:
        if is_transformed():
            return _by_definition(name, autocast, args)
        if is_for_onnx():
            return _by_definition(name, autocast, args, "torch.onnx exports it, which knows torch's ops only")
        return traced(*args, tracing.asked()) if tracing.is_traced() else overload(*args)

    with_graph = _direct_function(name, setup_context, backward)

    def without_graph(*args: Any) -> Any:
        return backends.compute(name, *args)

    def call(*args: Any) -> Any:
        if is_watched():
            return through_dispatcher(*args)
        compute: Callable[..., Any] = without_graph
        for arg in args:
            kind = type(arg)  # asking isinstance(arg, Tensor) instead takes longer than all the rest
            if kind in _PLAIN_TENSORS:
                # autograd.grad(is_grads_batched=True), what outlived torch.func, and numbers that are the
                # negative of those in memory (the imaginary part of a conjugate), which Triton reads
                if is_legacy_batchedtensor(arg) or is_functorch_wrapped_tensor(arg) or arg.is_neg():
                    return overload(*args)
                if arg.requires_grad:
                    compute = with_graph
            elif kind not in _NO_TENSORS:
                return overload(*args)
        if compute is with_graph and not torch.is_grad_enabled():
            compute = without_graph
        if profiler._is_profiler_enabled:
            compute = functools.partial(_profiled, f"{NAMESPACE}::{name}", compute)
        if autocast is not None and torch._C._is_any_autocast_enabled():
            device = args[0].device.type
            if device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device):
                return _with_autocast(compute, autocast, device, *args)
        return compute(*args)

    return call


def _add_overload(
    name: str,
    overload_name: str,
    schema: str,
    fake: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    autocast: Callable[..., Sequence[Any]] | None,
) -> Any:
    """Define ``fused_ops::name.overload_name`` with all its behaviours; both compute the same."""
    traced = overload_name == tracing.OVERLOAD
    full = f"{name}.{overload_name}" if traced else name
    compute = functools.partial(backends.compute, name)
    _library.define(full + schema)
    _library.impl(
        full,
        functools.partial(tracing.without_by, compute) if traced else compute,
        "CompositeExplicitAutograd",
    )
    qualified = f"{NAMESPACE}::{full}"
    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)
    overload = getattr(getattr(getattr(torch.ops, NAMESPACE), name), overload_name)

    def in_loop(*args: Any) -> Any:  # of vmap, outside which derivatives may be taken
        if is_transformed(done=1):
            return _by_definition(name, autocast, args[:-1] if traced else args)
        return overload(*args)

    torch.library.register_vmap(qualified, functools.partial(_vmap_by_loop, in_loop), lib=_library)
    if autocast is not None:
        for device, key in AUTOCAST_DEVICES.items():
            _library.impl(full, functools.partial(_with_autocast, overload, autocast, device), key)
    return overload


def is_watched() -> bool:
    """Whether anything but autograd and autocast has to see a call: tracing, a mode or a transform."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_torch_function_mode_enabled()
        or peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def is_observed() -> bool:
    """Whether anything but autograd has to see a call."""
    return is_watched() or torch._C._is_any_autocast_enabled()


def is_transformed(done: int = 0) -> bool:
    """Whether a derivative is taken that an op's backward cannot give: one of ``torch.func`` or forward mode.

    The nodes that torch makes of a context setter and a backward do not work in the former, and pass no
    tangents on, without a word, in the latter. ``done``: so many transforms have had their turn.
    """
    transforms = get_interpreter_stack()
    if transforms is None or len(transforms) <= done:
        return forward_ad._current_level >= 0
    return transforms[-1 - done].key() in (TransformType.Grad, TransformType.Jvp)


def is_wrapped() -> bool:
    """Whether a transform of ``torch.func`` is under way, which may have wrapped tensors."""
    return peek_interpreter_stack() is not None


def is_for_onnx() -> bool:
    """Whether ``torch.onnx.export`` has the call made, to write down what it consists of."""
    onnx = sys.modules.get("torch.onnx")  # torch imports it late
    return onnx is not None and onnx.is_in_onnx_export()


# Dynamo enters the transforms while it traces them, and asks then: as torch.compiler.assume_constant_result.
for _function in (is_transformed, is_wrapped, is_for_onnx):
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]


def may_be_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a backward may come. Tensors that vmap has wrapped do not tell who asks for their gradients."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors) or is_wrapped()


def _by_definition(
    name: str,
    autocast: Callable[..., Sequence[Any]] | None,
    args: tuple[Any, ...],
    reason: str = "derivatives of torch.func or of forward mode are asked for",
) -> Any:
    """Compute an op in plain PyTorch, which is differentiable in every way and exported by everyone."""
    definition, device = backends.definition(name), args[0].device.type
    backends.note(name, "reference", args[0], reason)
    if autocast is None or device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return definition(*args)
    args = tuple(autocast(torch.get_autocast_dtype(device), *args))
    with torch.autocast(device, enabled=False):  # not _with_autocast: Dynamo traces this
        return definition(*args)


def _profiled(label: str, compute: Callable[..., Any], *args: Any) -> Any:
    with _RecordFunctionFast(label, args):
        return compute(*args)


def _direct_function(
    name: str, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """The op with its autograd without the dispatcher. Its backward calls a registered op, so transforms of
    the backward pass (vmap) work on it as well."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = backends.compute(name, *args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(name, (torch.autograd.Function,), methods)
    # Its own `apply` would look again for transforms of torch.func, for a tenth of a small call's time.
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def differentiate_by_reference(
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
) -> dict[str, Callable[..., Any]]:
    """The autograd of a backward op, for :func:`define_op`: it differentiates the op's plain formula.

    Second derivatives are rare (gradient penalties), so they are right at every order rather than fast.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
        ctx.others = [None if isinstance(value, Tensor) else (value,) for value in inputs]

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        values = [next(saved) if other is None else other[0] for other in ctx.others]
        wanted = [index for index, needed in enumerate(ctx.needs_input_grad) if needed]

        def plain(*leaves: Tensor) -> tuple[Tensor, ...]:
            arguments = list(values)
            for index, leaf in zip(wanted, leaves, strict=True):
                arguments[index] = leaf
            result = reference(*arguments)
            return (result,) if isinstance(result, Tensor) else result

        pull_back = torch.func.vjp(plain, *(values[index] for index in wanted))[1]
        found: list[Tensor | None] = [None] * len(values)
        for index, grad in zip(wanted, pull_back(grads), strict=True):
            found[index] = grad
        return tuple(found)

    return {"setup_context": setup_context, "backward": backward}


def _vmap_by_loop(
    compute: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[Any, Any]:
    size = info.batch_size

    def sample(value: Any, dim: int | None, index: int) -> Any:
        if dim is None:
            return value
        # Of no samples the results' shapes are wanted, which any sample tells.
        return value.select(dim, index) if size else value.new_zeros(value.movedim(dim, 0).shape[1:])

    def call(index: int) -> Tensor | tuple[Tensor, ...]:
        return compute(*(sample(value, dim, index) for value, dim in zip(args, in_dims, strict=True)))

    results = [call(index) for index in range(max(size, 1))]
    if isinstance(results[0], Tensor):
        return torch.stack(cast(list[Tensor], results))[:size], 0
    stacked = tuple(torch.stack(parts)[:size] for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _with_autocast(function: Any, rule: Callable[..., Sequence[Any]], device: str, *args: Any) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(_autocast_keys(device)):
        return function(*rule(torch.get_autocast_dtype(device), *args))


@functools.cache
def _autocast_keys(device: str) -> Any:
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, AUTOCAST_DEVICES[device]))


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Every op of this package with its definition in plain PyTorch.

    For exported programs that are to run without this package, or that become something else, such as ONNX:
    ``exported.run_decompositions({**torch.export.default_decompositions(), **fused_ops.decompositions()})``.
    """
    package = getattr(torch.ops, NAMESPACE)
    return {getattr(package, op).default: backends.definition(op) for op in backends.ops("reference")}
