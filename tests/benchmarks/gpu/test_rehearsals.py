"""What is compiled ahead of the measurements: rehearsed here, where the kernels are not started either."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import steps
from benchmarks.cases import Case, Mode, Shape
from benchmarks.gpu import ops
from benchmarks.gpu.steps import TINY, without_updates
from benchmarks.problems import make_problem
from fused_ops import triton_support, use
from fused_ops.triton_support import CARDS, Launch, rehearse
from tests.fused_ops.interpreter import needs_triton

pytestmark = needs_triton


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    monkeypatch.setattr(triton_support, "why_not", lambda *_: None)
    with rehearse(CARDS["sm_90"]) as found:
        yield found


@pytest.mark.parametrize("mode", ["forward", "full"])
def test_a_cases_kernels_and_none_of_its_statistics(mode: Mode, launches: list[Launch]) -> None:
    case = Case("batch_norm_act", mode, Shape(2, 8, 5), "float32", "channels_last", ())
    problem = make_problem(case, "cpu")
    before = {name: value.clone() for name, value in problem.fused.named_buffers()}
    providers: Any = SimpleNamespace(problem=problem)
    ops.by_triton(case, providers)
    kernels = [launch.kernel.__name__ for launch in launches]
    assert kernels == ["forward_row", "backward_row"][: 1 if mode == "forward" else 2]
    assert all(value.equal(before[name]) for name, value in problem.fused.named_buffers())


def test_the_kernels_of_a_training_step(launches: list[Launch]) -> None:
    case = Case("fersnet_step", "train", TINY, "bfloat16", "channels_last", ())
    providers = steps.StepProviders(case, "cpu")
    step = steps.Step(providers.networks, providers.config)
    with use("triton"):
        without_updates(step, providers.batch)
        rehearsed = kernels_of(launches)
        launches.clear()
        for phase in step.phases:  # garbage has no loss that is finite, but asks for the same kernels
            phase.weighting.total = finite
        step.train(providers.batch)
    assert kernels_of(launches) == rehearsed and len(rehearsed) > 20


def finite(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([term.nan_to_num(0.0, 0.0, 0.0) for term in terms.values()]).sum()


def kernels_of(launches: list[Launch]) -> set[str]:
    """What is compiled: kernel, constants, and which arguments there are."""
    assert all(math.prod(launch.grid) > 0 for launch in launches)
    return {
        repr((launch.kernel.__name__, launch.constants, [type(arg) for arg in launch.args]))
        for launch in launches
    }
