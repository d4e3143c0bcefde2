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
from fused_ops.tuning.facts import Facts, NormFacts, ShareFacts, facts_of

SHAPE = Shape(2, 8, 5)
PREDICTED = [op for op in OPS if op != "fersnet_step"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", PREDICTED)
def test_the_cost_model_is_told_what_the_ops_are_called_with(
    op: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Facts] = {}
    compute = backends.compute

    def noted(name: str, *args: Any) -> Any:
        # A pooled norm's backward is that of the pooling, then of a plain norm.
        facts = facts_of(name, args)
        if facts is not None and not (op == "batch_norm_act_pool" and name == "norm_act_backward"):
            seen[name] = facts
        return compute(name, *args)

    monkeypatch.setattr(backends, "compute", noted)
    case = Case(op, "full" if "full" in OPS[op].modes else "forward", SHAPE, "bfloat16", layout, ())
    problem = make_problem(case, "cpu")
    with use("reference"):
        problem.results(problem.fused, case.mode == "full")
    assert seen
    for name, facts in seen.items():
        backward = dispatch.is_backward(name)
        if isinstance(facts, ShareFacts):
            call, precision = predictions.share_call(case, backward), predictions.precision(case)
            again = backward and op.endswith("recompute")
            assert dispatch.share_asked(name, facts) == (call, precision, backward, again)
        elif isinstance(facts, NormFacts):
            assert facts.call(pooled=name == "norm_act_pool") == predictions.norm_call(case)
        else:  # which neither makes statistics nor sees a residual
            assert facts.call() == replace(predictions.norm_call(case), given=True, residual=False)


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
