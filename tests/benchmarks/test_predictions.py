"""Predictions are of the very calls that the suites make, and stand for every case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks import predictions
from benchmarks.cases import LAYOUTS, OPS, Case, Selection, Shape
from benchmarks.problems import make_problem
from fused_ops import backends, use
from fused_ops.tuning import dispatch
from fused_ops.tuning.cost_model import Cost
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import ShareCall

SHAPE = Shape(2, 8, 5)
PREDICTED = [op for op in OPS if op != "fersnet_step"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", PREDICTED)
def test_the_cost_model_is_told_what_the_ops_are_called_with(
    op: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Any, ...]] = {}
    compute = backends.compute

    def noted(name: str, *args: Any) -> Any:
        # A pooled norm's backward is that of the pooling, then of a plain norm.
        if name in dispatch._CALLS and not (op == "batch_norm_act_pool" and name == "norm_act_backward"):
            seen[name] = dispatch._CALLS[name](*args)[1]
        return compute(name, *args)

    monkeypatch.setattr(backends, "compute", noted)
    case = Case(op, "full" if "full" in OPS[op].modes else "forward", SHAPE, "bfloat16", layout, ())
    problem = make_problem(case, "cpu")
    with use("reference"):
        problem.results(problem.fused, case.mode == "full")
    assert seen
    for name, (_, precision, backward, again, *call) in seen.items():
        assert precision == predictions.precision(case) and backward == name.endswith("_backward")
        if OPS[op].suite == "selective_share":
            assert ShareCall(*call) == predictions.share_call(case, backward)
            assert again == (backward and op.endswith("recompute"))
        else:
            expected = predictions.norm_call(case)
            if name == "norm_act_pool_backward":  # which neither makes statistics nor sees a residual
                expected = replace(expected, given=True, residual=False)
            assert NormCall(*call) == expected


def test_every_case_has_a_prediction_by_both_backends_but_for_steps() -> None:
    for suite in ("selective_share", "norm_act"):
        for case in Selection("full").cases(suite):
            for backend in predictions.BACKENDS:
                seconds, bound = predictions.seconds(case, backend), predictions.bound_seconds(case)
                assert seconds is not None and bound is not None and seconds > 0
    (step, *_) = Selection("full").cases("fersnet_step")
    assert predictions.seconds(step, "triton") is None and predictions.bound_seconds(step) is None


@pytest.mark.parametrize("op", PREDICTED)
def test_forward_and_backward_make_the_whole(op: str) -> None:
    def cost(mode: str) -> Cost:
        return Cost.of(predictions.kernels(Case(op, mode, SHAPE, "bfloat16", "channels_last", ()))["triton"])  # type: ignore[arg-type]

    if "full" in OPS[op].modes:
        assert cost("full").launches == cost("forward").launches + cost("backward").launches
