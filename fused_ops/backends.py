"""Who computes a call: the backends of every op, the choice between them, and its reasons.

Every op has one schema and several implementations, each under the name of its backend:

=========== ==================================================================================
reference   plain PyTorch, any device and dtype: the definition the others are held against
cpu         the C++ library built from ``csrc/*/cpu.cpp``
triton      Triton kernels, CUDA tensors (CPU tensors under ``TRITON_INTERPRET=1``, on request)
cuda        the CUDA C++ library built from ``csrc/*/cuda.cu``
=========== ==================================================================================

``auto`` asks those at home on the tensors' device (:data:`HOME`) in the order of :data:`AUTO_ORDER` and
takes the first that does not refuse; on a GPU :mod:`fused_ops.tuning.dispatch` puts the quicker one of the
two first. A backend named by :func:`use` or by the environment variable
``FUSED_OPS_BACKEND`` (read at the first call) is taken or the call raises: it is never replaced in silence.
Only derivatives of ``torch.func`` and of forward mode, which no kernel has, are always the reference's, as
second derivatives are.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fused_ops import triton_support
from fused_ops.tuning import dispatch, inductor
from fused_ops.tuning.facts import facts_of
from fused_ops.tuning.notes import listening

AUTO_ORDER = ("triton", "cuda", "cpu", "reference")
NAMES = ("auto", *reversed(AUTO_ORDER))
# The device whose tensors a backend serves without being asked for; the reference serves all.
HOME = {"cuda": "cuda", "triton": "cuda", "cpu": "cpu"}
SHOWN = ("triton", "reference")  # what torch.compile can trace
ENVIRONMENT_VARIABLE = "FUSED_OPS_BACKEND"

MOST_KEPT = 4096  # choices

Refuses = Callable[..., "str | None"]
Chosen = tuple[str, str, str]


@dataclass(frozen=True)
class Implementation:
    """One backend's way to compute one op.

    ``run`` takes the op's arguments; ``refuses`` takes them too and returns why they cannot be served, or
    None. ``may_be_shown`` tells whether torch.compile may trace it: that it asks no tensor for its values.
    """

    run: Callable[..., Any]
    refuses: Refuses
    may_be_shown: Callable[..., bool] = lambda *args: True


@dataclass(frozen=True)
class Decision:
    """Which backend served one call of one op, why and how, and why each other one did not.

    ``why`` is the reason for the order of the two GPU backends; ``how`` names the rows of the launch tables
    that gave Triton's launches, and its kernels. Both are empty on the CPU.
    """

    op: str
    backend: str
    reasons: dict[str, str]
    why: str = ""
    how: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.op}: served by {self.backend!r}"]
        lines += [f"    since {self.why}"] if self.why else []
        lines += [f"    by {line}" for line in self.how]
        lines += [f"    not {name!r}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join(lines)


class Explanation(tuple[Decision, ...]):
    """The decisions behind one call, in the order they were taken; prints as text."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no fused op was called"

    __repr__ = __str__


@dataclass(eq=False)
class _Wish:
    backend: str


@dataclass(eq=False)
class _Log:
    decisions: list[Decision] = field(default_factory=list)


_implementations: dict[str, dict[str, Implementation]] = {}
# What is open now in any thread, the newest last. Those of two threads need not end in the reverse order.
_wishes: list[_Wish] = []
_logs: list[_Log] = []
_override: str | None = None  # what the newest wish asks for


def register(
    op: str,
    backend: str,
    run: Callable[..., Any],
    refuses: Refuses = lambda *args: None,
    may_be_shown: Callable[..., bool] = lambda *args: True,
) -> None:
    """Add a backend's implementation of an op to the table."""
    _check_name(backend, where="backend")
    _implementations.setdefault(op, {})[backend] = Implementation(run, refuses, may_be_shown)


def ops(backend: str) -> tuple[str, ...]:
    """The names of all ops that have an implementation by this backend."""
    return tuple(op for op, found in _implementations.items() if backend in found)


def definition(op: str) -> Callable[..., Any]:
    """The op in plain PyTorch."""
    return _implementations[op]["reference"].run


def requested() -> str:
    """The backend asked for now: that of the innermost :func:`use`, else the environment's, else ``auto``."""
    return _override or environments_wish()


@functools.cache
def environments_wish() -> str:
    """Read once: a look into the environment at every call would cost as much as a small op."""
    name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    _check_name(name, where=ENVIRONMENT_VARIABLE)
    return name


@contextlib.contextmanager
def use(backend: str) -> Iterator[None]:
    """Within the context every fused op is computed by ``backend``, one of :data:`NAMES`.

    A call that this backend cannot serve raises a RuntimeError with the reason; ``"auto"`` restores the
    automatic choice. The setting holds for the whole process, so that autograd's own threads follow it, and
    for a backward pass only if that runs within the context too. Of contexts that overlap in several threads
    the newest that is still open holds.

    Raises:
        ValueError: the name is unknown.
    """
    _check_name(backend, where="backend")
    wish = _Wish(backend)
    _wishes.append(wish)
    _follow_newest()
    try:
        yield
    finally:
        _wishes.remove(wish)
        _follow_newest()


def _follow_newest() -> None:
    """Set ``_override``. Without a lock, which Dynamo does not trace: the last to write has looked again."""
    global _override
    while True:
        newest = _wishes[-1:]
        _override = newest[0].backend if newest else None
        if newest == _wishes[-1:]:
            return


def compute(op: str, *args: Any) -> Any:
    """Compute ``op`` of ``args`` by the backend that is asked for, or by the first one that serves it."""
    name, wish, why = _choose(op, args)
    return _run(op, name, wish, why, *args)


def shown(op: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """What torch.compile is shown of a call that it traces; None where the op stays one node of the graph.

    The launches of Triton's kernels, or the plain PyTorch of the reference: where that serves, and where the
    choice is automatic and Inductor makes it at least as quick (:mod:`fused_ops.tuning.inductor`).
    """
    if not all(isinstance(size, int) for arg in args if isinstance(arg, torch.Tensor) for size in arg.shape):
        return None  # neither choice nor launches can be made of sizes that are not known
    name, wish, why = _choose(op, args, compiled=True)
    if wish == "auto" and name != "reference" and (reason := inductor.why_aside(op, args, name)):
        name, why = "reference", reason
    if name not in SHOWN or not _implementations[op][name].may_be_shown(*args):
        return None
    # Before the graph is made AOTAutograd runs everything once for the shapes, of which nobody is told.
    made = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    run = functools.partial(_run, op, name, wish, why) if made else _implementations[op][name].run
    return triton_support.visibly(run) if name == "triton" else run


def _choose(op: str, args: tuple[Any, ...], compiled: bool = False) -> Chosen:
    """The backend that serves a call, the one that is asked for, and the reason for the order.

    On a GPU what was found is kept by the facts that it depends on: it costs more than the launch.
    """
    wish = _override or environments_wish()
    facts = None if compiled or not args[0].is_cuda else facts_of(op, args)
    if facts is None:
        return _find(op, args, wish, compiled)
    key = (wish, op, facts)
    chosen = dispatch.kept.get(key)
    if chosen is None:
        chosen = _find(op, args, wish)
        if len(dispatch.kept) >= MOST_KEPT:
            dispatch.kept.clear()
        dispatch.kept[key] = chosen
    return chosen


def _find(op: str, args: tuple[Any, ...], wish: str, compiled: bool = False) -> Chosen:
    candidates = _implementations[op]
    device = args[0].device.type
    order: tuple[str, ...] = AUTO_ORDER
    why = ""
    if wish != "auto":
        order = (wish,)
    elif device == "cuda" and (choice := dispatch.choose(op, args)):
        first = choice.asked(compiled)
        order, why = (*first, *AUTO_ORDER[len(first) :]), choice.reason
    for name in order:
        if _why_not(candidates, name, wish, device, args) is None:
            return name, wish, why
    raise RuntimeError(
        f"fused_ops.{op}: the backend {wish!r} was asked for and cannot serve this call: "
        f"{refusal(op, wish, args)}"
    )


def _run(op: str, name: str, wish: str, why: str, *args: Any) -> Any:
    run = _implementations[op][name].run
    if not _logs:
        return run(*args)
    with listening() as how:
        result = run(*args)
    _tell(_decision(op, name, wish, args, why, tuple(how)))
    return result


def _tell(decision: Decision) -> None:
    for log in tuple(_logs):
        log.decisions.append(decision)


def refusal(op: str, backend: str, args: tuple[Any, ...]) -> str | None:
    """Why a backend that is asked for cannot serve a call, or None where it can."""
    return _why_not(_implementations[op], backend, backend, args[0].device.type, args)


def note(op: str, backend: str, x: Any, reason: str) -> None:
    """Tell :func:`explain` of a call that was computed without :func:`compute`, for one reason."""
    if _logs:
        here = {
            name: f"the tensors are on {x.device}" for name in AUTO_ORDER if HOME.get(name) != x.device.type
        }
        others = {name: here.get(name, reason) for name in AUTO_ORDER if name != backend}
        _tell(Decision(op, backend, others))


def _why_not(
    candidates: dict[str, Implementation], name: str, wish: str, device: str, args: tuple[Any, ...]
) -> str | None:
    """Why this backend does not serve the call, or None where it would."""
    if name not in candidates:
        return "it has no implementation of this op"
    if wish == "auto" and HOME.get(name, device) != device:
        return f"the tensors are on {args[0].device}"
    return candidates[name].refuses(*args)


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run ``function(*args, **kwargs)`` and tell which backend served each fused op, and why others did not.

    ``function`` is anything that calls fused ops: one of the functional twins, a module or a whole network. A
    module is run as a copy, so that its running statistics stay as they are. A compiled function chooses when
    it is traced, at its first call; later calls tell only of what stayed a node of its graph. Calls that
    other threads make meanwhile are told of, too: they may be autograd's.

    Example:
        >>> print(explain(share, x, y))
        selective_share: served by 'cpu'
            not 'cuda': the tensors are on cpu
    """
    if isinstance(function, torch.nn.Module):
        function = copy.deepcopy(function)
    log = _Log()
    _logs.append(log)
    try:
        function(*args, **kwargs)
    finally:
        _logs.remove(log)
    return Explanation(log.decisions)


def _decision(
    op: str, taken: str, wish: str, args: tuple[Any, ...], why: str, how: tuple[str, ...]
) -> Decision:
    """What :func:`explain` tells: the backend taken, and every other one's reason."""
    candidates, device = _implementations[op], args[0].device.type
    first = f"{taken!r} goes first" if wish == "auto" else f"{taken!r} was asked for"
    others = (name for name in AUTO_ORDER if name != taken)
    return Decision(
        op,
        taken,
        {name: _why_not(candidates, name, wish, device, args) or f"it could, but {first}" for name in others},
        why,
        how,
    )


def _check_name(name: str, where: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{where} is {name!r}; known backends are {', '.join(map(repr, NAMES))}")
