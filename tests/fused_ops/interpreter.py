"""Runs tests of Triton kernels in Triton's interpreter.

In a process of their own, since it is switched on by a variable that must be set before triton is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from torch.torch_version import TorchVersion

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)


def pass_in_interpreter(file: Path) -> None:
    """Run a file of tests with TRITON_INTERPRET=1 and fail with its output if one of them does."""
    if TorchVersion(version("triton")) < "3.7" and TorchVersion(version("numpy")) >= "2.4":
        pytest.skip(f"Triton's interpreter before 3.7 takes no NumPy since 2.4; here is {version('numpy')}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "FUSED_OPS_BACKEND": "auto"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout
