"""Kernels that other processes compiled are those that launches ask for, as a driver's stand-in shows."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.stand_in import Driver, driven_by
from fused_ops import FusedGroupNormAct, FusedSelectiveShare, triton_support, use
from fused_ops.triton_support import CARDS, Launch
from fused_ops.tuning import ahead
from fused_ops.tuning.ahead import Compilers, Wanted
from tests.fused_ops.interpreter import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter's kernels are not compiled"
    ),
]
H100 = CARDS["sm_90"]


def drive() -> None:
    """In a process that compiles, for as long as it lives."""
    KEPT.enter_context(driven_by(Driver()))


KEPT = contextlib.ExitStack()


def fail() -> None:
    raise OSError("no such process")


def rest() -> None:
    time.sleep(60)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(triton_support, "why_not", lambda *_: None)
    x = torch.randn(1, 16, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last)
    share, norm = FusedSelectiveShare(16), FusedGroupNormAct(4, 16, activation="silu")

    def run() -> None:
        with use("triton"), torch.autocast("cpu", torch.bfloat16):
            both = share(x, norm(x))
            torch.autograd.backward(both, both)

    return run


def test_what_was_compiled_ahead_is_not_compiled_again(
    call: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compilers = Compilers(H100, 1, drive)
    try:
        compilers.compile([call, call], 300)
        count = compilers.compiled
        compilers.compile([call], 300)
    finally:
        compilers.end()
    compiled = set(tmp_path.rglob("*.cubin"))
    assert len(compiled) == count == compilers.compiled >= 5 and not compilers.missed
    with driven_by(Driver()):
        call()
    assert set(tmp_path.rglob("*.cubin")) == compiled


def test_nothing_depends_on_the_compilers(call: Callable[[], None]) -> None:
    for compilers in (Compilers(H100, 1, fail), Compilers(H100, 0)):
        compilers.compile([call], 60)
        compilers.compile([call, fail], 60)
        compilers.end()
        assert not compilers.compiled


def test_processes_that_hang_are_waited_for_once(
    call: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE", 0.1)
    compilers = Compilers(H100, 1, rest)
    compilers.compile([call], 60)
    assert compilers.missed >= 5
    compilers.compile([call, fail], 60)
    end = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.01)  # the pool's own thread waits for them, too, and may be told first
    assert compilers.missed >= 5 and not multiprocessing.active_children()


def test_odd_addresses_are_left_to_the_launch() -> None:
    from fused_ops.norm_act.triton_kernels import forward_row

    even = torch.empty(16)
    assert Wanted.by(Launch(forward_row, (1,), (even, 3), {"SPAN": 4}, 4, 2)) == Wanted(
        "fused_ops.norm_act.triton_kernels",
        "forward_row",
        (torch.float32, 3),
        (("SPAN", 4), ("num_warps", 4), ("num_stages", 2)),
    )
    assert Wanted.by(Launch(forward_row, (1,), (even[1:], 3), {"SPAN": 4}, 4, 2)) is None


TOY = """
import triton
import triton.language as tl

HALF = tl.constexpr(0.5)


@triton.jit
def innermost(x):
    return x * HALF


@triton.jit
def inner(x):
    return innermost(x)


@triton.jit
def kernel(x):
    inner(x)
"""


def test_the_key_of_a_kernel_is_the_same_whatever_was_compiled_before(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)

    def toy() -> Any:
        specification = importlib.util.spec_from_file_location("toy", tmp_path / "toy.py")
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    one, other = toy(), toy()
    assert other.innermost.cache_key and other.inner.cache_key  # of kernels that also call them
    keys = set()
    for module in (one, other):
        triton_support.settle_key(module.kernel)
        keys.add(module.kernel.cache_key)
    assert len(keys) == 1
