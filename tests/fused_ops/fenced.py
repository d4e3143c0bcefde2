"""The CPU kernels in a process of their own, in which each tensor lies against a closed page
(tests/csrc/fence.cpp): whoever reads or writes beyond one, by a vector's last lane, ends the process."""

from __future__ import annotations

import functools
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from build_support import toolchain
from build_support.runner import Step, run_steps
from fused_ops import use
from tests.fused_ops.norm_act.cases import CASES, POOLED, Case, results
from tests.fused_ops.selective_share import test_op as sharing

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "fence"
FLAGS = ("-std=c++20", "-O2", "-Wall", "-fPIC", "-shared")
NORMED = [(3, 8, 9, 7), (2, 66, 5, 3), (2, 5, 1, 7), (1, 5, 83, 80)]
SHARED = [shape for shape in sharing.SHAPES + sharing.WHOLE_LINES if math.prod(shape[2:]) < 2000]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
IN_PLACE = [
    Case(norm, "leaky_relu", affine=False, inplace=True) for norm in ("batch", "running", "instance", "group")
]


@functools.cache
def library() -> Path:
    try:
        cxx = toolchain.find_cxx()
    except toolchain.Missing as reason:
        pytest.skip(str(reason))
    source, output = ROOT / "tests/csrc/fence.cpp", FOLDER / "libfence.so"
    command = (*cxx.command, *FLAGS, str(source), "-o", str(output), "-ldl")
    run_steps([Step(output, (source,), command)], ROOT, FOLDER)
    return output


def run(code: str, side: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python's ``code`` with the closed pages on one ``side`` of the tensors, "before" or "behind"."""
    fence = {"LD_PRELOAD": str(library()), "FENCE": side, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **fence, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def call_everything() -> None:
    """Every way through the CPU kernels, forward and backward; memory that nobody wrote is NaN."""
    torch.manual_seed(0)
    with use("cpu"):
        for dtype, last, shape in itertools.product(DTYPES, (False, True), NORMED):
            for case in CASES + POOLED + IN_PLACE:
                if case.serves(shape):
                    tensors = case.cast(case.tensors(shape, last), dtype)
                    _check(results(case.fused, tensors, dtype), case, shape, dtype, last)
    for dtype, name, shape in itertools.product(DTYPES, sharing.FORMATS, SHARED):
        tensors = [tensor.to(dtype) for tensor in sharing.pair(*shape)]
        tensors[:2] = [tensor.contiguous(memory_format=sharing.FORMATS[name]) for tensor in tensors[:2]]
        recompute = shape[0] % 2 == 0
        _check(sharing.everything(tensors, "cpu", "accept", recompute), shape, dtype, name, recompute)


def _check(found: list[torch.Tensor], *what: object) -> None:
    if not all(tensor.isfinite().all() for tensor in found):
        raise SystemExit(f"not finite: {' '.join(map(str, what))}")
