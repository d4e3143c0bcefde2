"""The short cut past the dispatcher: taken by plain calls alone, with the same results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fused_ops import FusedBatchNormAct2d, FusedGroupNormAct, FusedSelectiveShare, decompositions

X, Y = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)


class SeeAll(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


class PassOn(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    pass


def through_dispatcher(function: Callable[[], object]) -> set[str]:
    """The ops of ``fused_ops`` that the dispatcher saw."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    names = {event.name() for event in profiler.profiler.kineto_results.events()}
    return {name for name in names if name.startswith("fused_ops::")}


def test_a_plain_call_takes_the_short_cut() -> None:
    share = FusedSelectiveShare(4)
    assert not through_dispatcher(lambda: sum(out.sum() for out in share(X, Y)).backward())
    assert all(weight.grad is not None for weight in share.parameters())


def inside(context: Callable[[], Any]) -> Callable[[FusedGroupNormAct], Tensor]:
    def run(norm: FusedGroupNormAct) -> Tensor:
        with context():
            return norm(X)

    return run


OBSERVED = {
    "dispatch mode": inside(SeeAll),
    "function mode": inside(PassOn),
    "autocast": inside(lambda: torch.autocast("cpu", torch.bfloat16)),
    "subclass": lambda norm: norm(X.as_subclass(Subclass)),
    "vmap": lambda norm: torch.func.vmap(norm)(X[None])[0],
}


@pytest.mark.parametrize("name", OBSERVED)
def test_who_looks_on_sees_the_op(name: str) -> None:
    norm = FusedGroupNormAct(2, 4, activation="silu")
    assert through_dispatcher(lambda: OBSERVED[name](norm))


def test_second_derivatives_are_the_dispatchers() -> None:
    norm = FusedGroupNormAct(2, 4, activation="silu").double()

    def penalty(mode: Any) -> Tensor:
        x = X.double().requires_grad_()
        with mode:
            (grad,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(grad.square().sum(), x)
        return second

    torch.testing.assert_close(penalty(contextlib.nullcontext()), penalty(SeeAll()), rtol=1e-12, atol=1e-12)


def test_every_op_of_an_exported_program_can_be_plain_pytorch() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.share, self.norm = FusedSelectiveShare(4), FusedBatchNormAct2d(4, activation="relu")

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            x, y = self.share(x, y)
            return self.norm(x), y

    network = Network().eval()
    exported = torch.export.export(network, (X, Y))
    assert any("fused_ops" in str(node.target) for node in exported.graph.nodes)
    plain = exported.run_decompositions({**torch.export.default_decompositions(), **decompositions()})
    assert not any("fused_ops" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(X, Y), network(X, Y))
    names = {op.name() for op in decompositions()}
    assert names >= {
        "fused_ops::selective_share",
        "fused_ops::selective_share_backward",
        "fused_ops::norm_act",
    }
