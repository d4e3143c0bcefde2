"""Who does a case's work: eager, compiled, each backend of the fused ops, or the roofline's work alone."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy import error_in_roundings
from benchmarks.measure import Runner
from benchmarks.memory import saved_bytes
from benchmarks.problems import Problem
from fused_ops import explain, use

BACKENDS = ("reference", "cpu", "triton", "cuda")


class Unavailable(Exception):
    """This provider cannot run here; the message is the reason."""


WRONG = 1000.0  # roundings that no order of additions explains; the largest seen of a right result are 60


class OpProviders:
    """The providers of one :class:`Problem`, made when asked for and kept for its other modes."""

    def __init__(self, problem: Problem, device: str) -> None:
        self.problem, self.device = problem, device
        self._compiled: nn.Module | None = None
        self._errors: dict[tuple[str, bool], float] = {}

    def runner(self, provider: str, mode: str) -> Runner:
        """Raises :class:`Unavailable` with the reason."""
        if provider == "copy":
            return Runner(lambda _: self.problem.copy(), around=torch.no_grad)
        if provider == "bound":
            bound = self.problem.bounds[mode]
            return Runner(lambda _: bound(), around=torch.no_grad)
        module, context = self.module(provider, mode)
        problem = self.problem
        if mode == "forward":
            return Runner(lambda _: problem.call(module), around=lambda: _both(context(), torch.no_grad()))
        if mode == "backward":
            return Runner(
                lambda outputs: problem.gradients(module, outputs),
                lambda: problem.call(module),
                context,
            )
        return Runner(lambda _: problem.gradients(module, problem.call(module)), around=context)

    def module(self, provider: str, mode: str) -> tuple[nn.Module, Callable[[], Any]]:
        """The module that a provider runs, and the context that it runs in."""
        if provider == "eager":
            return self.problem.stock, contextlib.nullcontext
        if provider == "compile":
            return self._compile(), contextlib.nullcontext
        fused = self.problem.fused
        if provider == "auto":
            return fused, automatic_context(lambda: self.problem.results(fused, mode != "forward"))
        context = backend_context(provider, lambda: self.problem.results(fused, mode != "forward"))
        return fused, context

    def _compile(self) -> nn.Module:
        if self._compiled is None:
            self._compiled = compiled(copy.deepcopy(self.problem.stock))
        return self._compiled

    def facts(self, provider: str, mode: str, wrong: float = WRONG) -> dict[str, Any]:
        """What is not time: bytes that autograd keeps, and the error against float64 in roundings.

        Raises:
            ValueError: the results are ``wrong`` roundings off or more; such a provider's time is none.
        """
        if provider in ("bound", "copy"):
            return {}
        module, context = self.module(provider, mode)
        found: dict[str, Any] = {}
        with context():
            if mode != "forward":
                found["saved_bytes"] = saved_bytes(
                    lambda: self.problem.call(module), ignore=tuple(module.parameters())
                )
            key = provider, mode != "forward"
            if key not in self._errors:
                self._errors[key] = self._error(module, mode != "forward")
            found["error_roundings"] = self._errors[key]
            if not self._errors[key] < wrong:
                raise ValueError(f"wrong results: {self._errors[key]:.3g} roundings from float64's")
        return found

    def _error(self, module: nn.Module, with_gradients: bool) -> float:
        exact = self.problem.exact
        ours = self.problem.results(module, with_gradients)
        true = exact.results(exact.stock, with_gradients)
        return max(error_in_roundings(our, one) for our, one in zip(ours, true, strict=True))


def why_not_compile() -> str | None:
    """Why torch.compile cannot work here, or None."""
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler; there is no {compiler}"


def compiled(module: nn.Module) -> nn.Module:
    """``module`` under torch.compile for exactly these shapes; :class:`Unavailable` without a compiler."""
    if reason := why_not_compile():
        raise Unavailable(reason)
    torch._dynamo.reset()  # or many cases of one class would use up the limit on recompilations
    return torch.compile(module, dynamic=False)


def automatic_context(call: Callable[[], object]) -> Callable[[], Any]:
    """The context in which ``call`` is served as users get it.

    Raises:
        Unavailable: that is by one of the backends that are providers themselves.
    """
    with use("auto"):
        served = {decision.backend for decision in explain(call)}
    if served.isdisjoint({"reference"}):
        raise Unavailable(f"the automatic choice is measured as {' and '.join(sorted(served))}")
    return lambda: use("auto")


def backend_context(name: str, call: Callable[[], object]) -> Callable[[], Any]:
    """The context in which ``call`` is served by the backend ``name``.

    Where the automatic choice is this backend, it is measured as that: what users get, with the choice's own
    cost. The reference is always asked for: by itself ``auto`` takes torch's own steps in some places.

    Raises:
        Unavailable: the backend refuses the call; with its reason.
    """
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        raise Unavailable("TRITON_INTERPRET=1: the interpreter's time says nothing about the kernels")
    with use("auto"):
        decisions = explain(call)
    if name != "reference" and all(decision.backend == name for decision in decisions):
        return lambda: use("auto")
    try:
        with use(name):
            call()
    except RuntimeError as error:
        _, refused, reason = str(error).partition("cannot serve this call: ")
        if refused:
            raise Unavailable(reason) from None
        raise
    return lambda: use(name)


@contextlib.contextmanager
def _both(first: Any, second: Any) -> Any:
    with first, second:
        yield
