from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.accuracy import assert_equal_outputs
from benchmarks.cases import OPS, Case, Shape
from benchmarks.problems import make_problem
from fused_ops import use

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


def test_different_outputs_are_no_result() -> None:
    one = torch.ones(3)
    assert_equal_outputs((one,), (one * 1.0001,))
    with pytest.raises(RuntimeError, match="output 0"):
        assert_equal_outputs((one,), (one * 1.01,))
    with pytest.raises(RuntimeError):
        assert_equal_outputs((one * float("nan"),), (one,))
