"""Graphs of models with our layers, as torch.fx and torch.jit.trace make them."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from fused_ops import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedConvFLU,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    FusedSelectiveShare,
    fuse,
)
from fused_ops.norm_act import convert_sync_batchnorm

X = torch.randn(2, 4, 8, 8)


class Network(nn.Module):
    """Every layer; with what they are given and what they give in several forms."""

    def __init__(self) -> None:
        super().__init__()
        self.share, self.unit = FusedSelectiveShare(4), FusedConvFLU(4)
        self.batch = FusedBatchNormAct2d(4, activation="relu", pool=2)
        self.instance = FusedInstanceNormAct2d(4, activation="silu", pool=2)
        self.group = FusedGroupNormAct(2, 4, activation="leaky_relu")
        self.adain = FusedAdaIN(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, other = self.share(x, x * 2)
        other, gates = self.unit(other, one, return_gates=True)
        one = self.group(self.batch(one), residual=self.instance(other))
        return self.adain(one, x.mean((2, 3))[:, :3]), gates.z


def test_torch_fx_records_each_layer_as_one_call() -> None:
    network = Network().eval()
    traced = fx.symbolic_trace(network)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert called == set(network._modules)
    torch.testing.assert_close(traced(X), network(X))
    traced.train()(X)
    assert traced.batch.num_batches_tracked == 1


def test_torch_fx_records_synchronized_norms() -> None:
    network = convert_sync_batchnorm(Network()).eval()
    torch.testing.assert_close(fx.symbolic_trace(network)(X), network(X))


class Doubled(FusedBatchNormAct2d):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return super().forward(x, residual) * 2


def test_torch_fx_doubles_nothing_that_a_subclass_adds() -> None:
    """It looks into a class that is not torch.nn's, where a call of the layer would add it once more."""
    network = nn.Sequential(Doubled(4)).eval()
    with pytest.raises(fx.proxy.TraceError, match="Doubled"):
        fx.symbolic_trace(network)

    class Whole(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, Doubled)

    traced = fx.GraphModule(network, Whole().trace(network))
    torch.testing.assert_close(traced(X), network(X))


@pytest.mark.parametrize("layer", [FusedSelectiveShare(4), FusedBatchNormAct2d(4), nn.BatchNorm2d(4)])
def test_a_layer_by_itself_is_no_model_to_torch_fx(layer: nn.Module) -> None:
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(layer)


class Chain(nn.Sequential):
    pass


@pytest.mark.parametrize("kind", [nn.Sequential, Chain])
def test_what_torch_fx_makes_of_a_fused_sequential_can_be_pickled(kind: type[nn.Sequential]) -> None:
    model, _ = fuse(kind(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval())
    traced = pickle.loads(pickle.dumps(fx.symbolic_trace(model)))
    torch.testing.assert_close(traced(X), model(X))


@pytest.mark.parametrize(
    "layer",
    [
        *Network().children(),
        convert_sync_batchnorm(FusedBatchNormAct2d(4)),
        *(fuse(kind(nn.BatchNorm2d(4), nn.ReLU())).model for kind in (nn.Sequential, Chain)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_torch_jit_script_says_what_it_cannot_compile(layer: nn.Module) -> None:
    name = type(layer).__name__
    with pytest.raises(TypeError, match=f"torch.jit.script cannot compile {name} of fused_ops; take"):
        torch.jit.script(nn.ModuleList([layer]))


@pytest.mark.parametrize("context", [torch.no_grad, contextlib.nullcontext])
def test_a_traced_model_serves_with_gradients_and_without(
    context: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """torch.jit.trace traces a second time, without gradients, and compares the graphs."""
    network = Network().eval()
    with context():
        traced = torch.jit.trace(network, X)
    x = torch.randn(3, 4, 6, 10, requires_grad=True)
    grads = [torch.autograd.grad(run(x)[0].square().sum(), x)[0] for run in (traced, network)]
    torch.testing.assert_close(*grads)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), network(x))
