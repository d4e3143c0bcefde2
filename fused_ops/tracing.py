"""What torch.compile sees of an op: one overload more, ``traced``, whose backend is chosen when it is traced.

A call that is traced goes to this overload. Autograd, autocast and vmap treat it as the op itself; below
them, where AOTAutograd makes a graph of what is left, it is replaced by what :func:`backends.shown` says:

* the launches of Triton kernels, where Triton serves, as ``torch.library.triton_op`` shows them: Inductor
  plans their memory, lays their arguments out as they want them, and launches them without the host code;
* plain PyTorch, where no kernel serves or Inductor is quicker (:mod:`fused_ops.tuning.inductor`);
* nothing else: a native library's op, or one of a shape that is not known yet, stays one opaque node, whose
  backend is asked when it runs.

So a compiled function keeps the choice with which it was traced, and is compiled again where :func:`use`
asks for another backend. Exported programs contain the op itself, and leave the choice to those who run them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

from fused_ops import backends

OVERLOAD = "traced"
_KNOWN = (torch.Tensor, torch.nn.Parameter, FunctionalTensor, FakeTensor)


def traced_schema(schema: str) -> str:
    """The overload's schema: one argument more, which says what the choice depends on."""
    return schema.replace(") ->", ", str by) ->", 1)


def traced_autograd(
    setup_context: Callable[..., None], backward: Callable[..., Any], arguments: int
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """The autograd of an op with so many arguments, for its overload."""

    def setup_of_traced(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs[:-1], output)

    def backward_of_traced(ctx: Any, *grads: Any) -> Any:
        return *backward(ctx, *grads)[:arguments], None

    return setup_of_traced, backward_of_traced


def without_by(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the op's arguments with those of the overload."""
    with as_asked(args[-1]):
        return function(*args[:-1])


def is_traced() -> bool:
    """Whether the call becomes part of a graph that a compiler gets; not so for export."""
    # The flag, not is_exporting(), which Dynamo of torch 2.11 takes for True.
    if torch.compiler._is_exporting_flag:
        return False
    return torch.compiler.is_compiling() or (
        torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FUNCTIONAL) is not None
    )


def asked() -> str:
    """Whom :func:`use`, or else the environment, asks for, and a digest of this package.

    It stands in the graph, so that torch's caches of compiled code, which know nothing of us, tell calls
    apart that are shown differently. Dynamo traces this function, and so knows to look at the wish.
    """
    return f"{backends._override or _environments_wish()} {_digest_of_package()}"


def as_asked(by: str) -> contextlib.AbstractContextManager[None]:
    """Within the context the wish is the one that a graph was made with."""
    return backends.use(by.partition(" ")[0])


def _environments_wish() -> str:
    return backends.environments_wish()


def _digest_of_package() -> str:
    return _digest()


# What torch.compiler.assume_constant_result does, which would import all of torch._dynamo.
for _function in (_environments_wish, _digest_of_package):
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _digest() -> str:
    """Of the sources and the launch tables: graphs hold kernels and launches made from them."""
    found = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.json")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def show_inside(library: torch.library.Library, name: str) -> None:
    """Have AOTAutograd put what :func:`backends.shown` says in place of ``fused_ops::name.traced``."""

    def rule(mode: Any, op: Any, types: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        if any(kind not in _KNOWN for kind in types):  # a subclass that has to see the op itself
            return NotImplemented
        with as_asked(args[-1]):
            run = backends.shown(name, args[:-1])
            if run is not None:
                with mode:
                    return run(*args[:-1])
        return mode.__torch_dispatch__(op, types, args, kwargs)

    qualified = f"{library.ns}::{name}.{OVERLOAD}"
    torch.library.register_torch_dispatch(qualified, FunctionalTensorMode, rule, lib=library)
