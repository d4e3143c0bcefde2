"""A copy of the project with a small stand-in for csrc/, to be built in many ways within seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from build_support import toolchain

ROOT = Path(__file__).resolve().parents[2]

_GLUE = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include "common/new_tensor.h"
#include "common/scale.h"
#if !FUSED_OPS_ISAS_baseline
#error "the glue must know which instruction sets exist"
#endif
namespace baseline { void scale(const float* x, float* y, int64_t n); }
using torch::stable::Tensor;
Tensor twice(Tensor x) {
  Tensor y = torch::stable::empty_like(x);
  baseline::scale(static_cast<const float*>(x.data_ptr()), static_cast<float*>(y.data_ptr()), x.numel());
  return y;
}
Tensor blank(Tensor x) { return fused_ops::new_tensor(x, x.sizes(), x.scalar_type(), x.dim() == 4); }
STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_toy, m) {
  m.def("twice(Tensor x) -> Tensor");
  m.def("blank(Tensor x) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(fused_ops_toy, CPU, m) {
  m.impl("twice", TORCH_BOX(&twice));
  m.impl("blank", TORCH_BOX(&blank));
}
"""
_KERNELS = """
#include <cstdint>
#include "common/scale.h"
namespace FUSED_OPS_ISA {
void scale(const float* x, float* y, int64_t n) { for (int64_t i = 0; i < n; ++i) y[i] = SCALE * x[i]; }
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The project's Python and build files, with a toy op in csrc/."""
    tree = tmp_path / "a tree"  # a space in the path is nothing special
    skip = shutil.ignore_patterns("lib", "__pycache__", "*.so")
    for folder in ("build_support", "fused_ops", "fer_mtl"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "README.md").write_text("# stand-in\n")
    for name, text in {
        "common/scale.h": "#define SCALE 2.0f\n",
        "toy/cpu.cpp": _GLUE,
        "toy/cpu_kernels.cpp": _KERNELS,
    }.items():
        path = tree / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copy(ROOT / "csrc/common/new_tensor.h", tree / "csrc/common")
    return tree


Build = Callable[..., "tuple[Path | None, str]"]


@pytest.fixture
def build_wheel(tree: Path, tmp_path: Path) -> Build:
    """`pip wheel` of the tree as it is now: the wheel, or None when pip failed, and all that was said."""

    def build(**environment: str) -> tuple[Path | None, str]:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "-v"]
        result = subprocess.run(
            [*pip, "--no-build-isolation", "--no-index", "-w", str(out), str(tree)],
            env={**os.environ, "FUSED_OPS_BUILD": "auto", **environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if result.returncode:
            return None, result.stdout
        (wheel,) = out.glob("*.whl")
        return wheel, result.stdout

    return build


@pytest.fixture
def needs_compiler() -> None:
    """Skip, with the reason, where natives cannot be built."""
    try:
        toolchain.find_cxx()
        toolchain.find_torch()
    except toolchain.Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment in which no compiler is found."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return {"PATH": str(empty), "CXX": "", "CUDA_HOME": str(empty)}
