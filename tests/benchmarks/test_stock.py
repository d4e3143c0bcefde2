from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.cases import OPS, Case, Shape
from benchmarks.problems import make_problem
from benchmarks.stock import assert_equal_outputs, to_stock
from fer_mtl import FERSNet
from fused_ops import FusedConvFLU, FusedSelectiveShare, use

SHAPE = Shape(2, 8, 6)


def fused_parts(model: nn.Module) -> list[str]:
    return [type(m).__name__ for m in model.modules() if type(m).__module__.startswith("fused_ops")]


@pytest.mark.parametrize("op", [name for name in OPS if name != "fersnet_step"])
def test_stock_and_fused_agree_in_outputs_and_gradients(op: str) -> None:
    problem = make_problem(Case(op, "full", SHAPE, "float64", "channels_last", ()), "cpu")
    gradients = op != "batch_norm_act_eval"
    with use("reference"):
        ours = problem.results(problem.fused, gradients)
    assert_equal_outputs(ours, problem.results(problem.stock, gradients), tolerance=1e-10)
    assert not fused_parts(problem.stock)


@pytest.mark.parametrize("convention", ["accept", "keep"])
def test_both_conventions(convention: str) -> None:
    share = FusedSelectiveShare(4, 6, kernel_size=3, convention=convention)
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    assert_equal_outputs(share(x, y), to_stock(share)(x, y), tolerance=1e-5)
    unit = FusedConvFLU(4, convention=convention)
    assert_equal_outputs((unit(x, x + 1),), (to_stock(unit)(x, x + 1),), tolerance=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_whole_network(training: bool) -> None:
    model = FERSNet(4, 32, width=0.125).train(training)
    stock = to_stock(model)
    assert fused_parts(model)
    assert not fused_parts(stock)
    assert stock.training == training
    image, target = torch.rand(2, 3, 32, 32), torch.tensor([1, 3])
    answers = []
    for network in (model, stock):
        torch.manual_seed(0)
        answers.append(network(image, target))
    assert_equal_outputs(*((a["logits"], a["image"]) for a in answers), tolerance=1e-3)


def test_the_model_itself_is_left_alone() -> None:
    model = FERSNet(4, 32, width=0.125)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stock = to_stock(model)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(list(stock.parameters())) == len(list(model.parameters()))


def test_an_unknown_fused_module_is_refused() -> None:
    class Unknown(nn.Module):
        pass

    Unknown.__module__ = "fused_ops.somewhere"
    with pytest.raises(ValueError, match="Unknown has no stock form"):
        to_stock(nn.Sequential(Unknown()))


def test_different_outputs_are_no_result() -> None:
    one = torch.ones(3)
    assert_equal_outputs((one,), (one * 1.0001,))
    with pytest.raises(RuntimeError, match="output 0"):
        assert_equal_outputs((one,), (one * 1.01,))
    with pytest.raises(RuntimeError):
        assert_equal_outputs((one * float("nan"),), (one,))
