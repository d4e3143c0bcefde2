"""Guards that need no clock: bytes kept, calls made, memory taken, instructions executed by the fused ops.

They hold on a busy machine too, so what they catch is caught before anything is timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import instructions
from benchmarks.cases import DTYPES, LAYOUTS, OPS, Case, Shape
from benchmarks.memory import peak_bytes, saved_bytes
from benchmarks.problems import Problem, make_problem
from fused_ops import native, use

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Shape(2, 16, 12)
SHARES = ("selective_share", "selective_share_recompute")
NORMS = tuple(name for name, op in OPS.items() if op.suite == "norm_act")
POOL = "batch_norm_act_pool"
OP_NAMES = (*SHARES, *NORMS)
DIFFERENTIATED = tuple(name for name in OP_NAMES if name != "batch_norm_act_eval")
# Per-channel values (statistics, running ones, gradients of parameters, a condition's scale and shift).
SMALL = 40 * SHAPE.batch * SHAPE.channels * 4
COPIES = ("aten::copy_", "aten::clone", "aten::contiguous", "aten::cat", "aten::_to_copy")

needs_native = pytest.mark.skipif(
    not native.cpu_library().loaded, reason=native.cpu_library().reason or "no native library"
)


def problem(op: str, dtype: str = "float32", layout: str = "channels_last", shape: Shape = SHAPE) -> Problem:
    return make_problem(Case(op, "full", shape, dtype, layout, ()), "cpu")


def kept_elements(op: str, provider: str, dtype: str = "float32") -> float:
    """Elements kept per feature element: C's per pixel for a share, elements per element for a norm."""
    given = problem(op, dtype)
    module = given.stock if provider == "eager" else given.fused
    with use("auto" if provider == "eager" else provider):
        count = saved_bytes(lambda: given.call(module), ignore=tuple(module.parameters()))
    return count / (SHAPE.elements * DTYPES[dtype].itemsize)


# --- bytes kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("op", "provider", "multiple"),
    [
        ("selective_share", "eager", 16),
        ("selective_share", "reference", 8),
        pytest.param("selective_share", "cpu", 8, marks=needs_native),
        ("selective_share_recompute", "reference", 2),
        pytest.param("selective_share_recompute", "cpu", 2, marks=needs_native),
    ],
)
def test_a_share_keeps_so_many_c_per_pixel(op: str, provider: str, multiple: int, dtype: str) -> None:
    assert kept_elements(op, provider, dtype) == multiple


@pytest.mark.parametrize("op", [op for op in NORMS if op in DIFFERENTIATED])
@pytest.mark.parametrize("provider", ["reference", pytest.param("cpu", marks=needs_native)])
def test_a_norm_keeps_its_input_alone(op: str, provider: str) -> None:
    # With a residual also the output, from which the next layer keeps it anyway; pooled, a quarter of it and
    # which pixels were the largest. In place it is the output that is kept.
    whole = {"batch_norm_act_residual": 2, "batch_norm_act_pool": 1.25 + 1 / 16}.get(op, 1)
    small = SMALL / (SHAPE.elements * 4)
    assert whole <= kept_elements(op, provider) <= whole + small


@pytest.mark.parametrize("op", ["batch_norm_act", "instance_norm_act", "group_norm_act"])
def test_eager_norms_keep_twice_as_much(op: str) -> None:
    assert kept_elements(op, "eager") == pytest.approx(2, abs=SMALL / (SHAPE.elements * 4))


# --- calls --------------------------------------------------------------------------------------------------


def calls_of(function: Callable[[], object]) -> Counter[str]:
    function()  # what happens only once (loading, workspaces) is no part of a call
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    return Counter(event.name() for event in profiler.profiler.kineto_results.events())


def named(*ops: str) -> dict[str, int]:
    """A call of each op, and of the library's within it."""
    return {f"{namespace}::{op}": 1 for namespace in ("fused_ops", "fused_ops_cpu") for op in ops}


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OP_NAMES)
def test_a_forward_is_one_fused_call(op: str, layout: str) -> None:
    given = problem(op, layout=layout)
    with torch.no_grad(), use("cpu"):
        calls = calls_of(lambda: given.call(given.fused))
    kernel = "selective_share" if op in SHARES else "norm_act_pool" if op == POOL else "norm_act"
    assert {name: calls[name] for name in calls if name.startswith("fused_ops")} == named(kernel)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_a_backward_is_one_fused_call(op: str, layout: str) -> None:
    given = problem(op, layout=layout)

    def run() -> None:
        given.gradients(given.fused, outputs)

    with use("cpu"):
        outputs = given.call(given.fused)
        run()
        outputs = given.call(given.fused)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
    calls = Counter(event.name() for event in profiler.profiler.kineto_results.events())
    kernel = "selective_share_backward" if op in SHARES else "norm_act_backward"
    fused = {name: count for name, count in calls.items() if name.startswith("fused_ops")}
    assert fused == (named(kernel, "norm_act_pool_backward") if op == POOL else named(kernel))


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [*SHARES, "instance_norm_act", "group_norm_act", "batch_norm_act_eval"])
def test_neither_layout_is_copied(op: str, layout: str) -> None:
    given = problem(op, layout=layout)
    with torch.no_grad(), use("cpu"):
        calls = calls_of(lambda: given.call(given.fused))
    assert not {name: calls[name] for name in COPIES if calls[name]}
    for output in given.call(given.fused):
        assert output.is_contiguous(memory_format=LAYOUTS[layout])


# --- memory -------------------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", OP_NAMES)
def test_a_forward_takes_no_memory_but_its_outputs(op: str, dtype: str, layout: str) -> None:
    given = problem(op, dtype, layout)
    outputs = (
        int((2 if op in SHARES else 1 / 4 if op == POOL else 1) * SHAPE.elements) * DTYPES[dtype].itemsize
    )
    with torch.no_grad(), use("cpu"):
        given.call(given.fused)
        assert outputs <= peak_bytes(lambda: given.call(given.fused)) <= outputs + SMALL


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_a_backward_takes_no_memory_but_its_gradients(op: str, layout: str) -> None:
    given = problem(op, layout=layout)
    gradients = sum(leaf.nbytes for leaf in given.leaves(given.fused))
    with use("cpu"):
        given.gradients(given.fused, given.call(given.fused))
        graphs = [given.call(given.fused) for _ in range(2)]  # one for each call that is made
        peak = peak_bytes(lambda: given.gradients(given.fused, graphs.pop()))
    # What the graph kept of small tensors is freed on the way, sooner or later.
    assert gradients - SMALL <= peak <= gradients + SMALL


# --- instructions -------------------------------------------------------------------------------------------

# Per multiply-add of a share, per element of a norm, AVX2 build; about a tenth above what GCC 12 makes of it.
MOST_INSTRUCTIONS = {
    "selective_share": 0.32,
    "selective_share_backward": 0.32,
    "norm_act": 5.6,
    "norm_act_backward": 13.0,
}


@pytest.mark.slow
@needs_native
def test_kernels_execute_no_more_instructions() -> None:
    if reason := instructions.why_not():
        pytest.skip(reason)
    counts = instructions.count(ROOT)
    assert set(counts) == set(MOST_INSTRUCTIONS)
    above = {name: value for name, value in counts.items() if value > MOST_INSTRUCTIONS[name]}
    assert not above, f"more instructions than {MOST_INSTRUCTIONS}: {above}"
    too_few = {name: value for name, value in counts.items() if value < MOST_INSTRUCTIONS[name] / 2}
    assert not too_few, f"less than half of the bound; lower it, or see if the kernel still runs: {too_few}"
