"""Instructions that the C++ kernels execute, counted by valgrind: the same number on a busy machine.

``python -m benchmarks.instructions`` prints them per multiply-add for the share and per feature element
for a norm. valgrind knows neither AVX-512 nor AMX, so everything is
capped at AVX2: what is counted is the AVX2 build of the kernels, which shares its source with the others.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import fused_ops

CALLS = 2
CAPS = {
    "FUSED_OPS_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
# The glue around each kernel in csrc/<op>/cpu.cpp: counting goes on while one of these runs.
FUNCTIONS = {
    f"{op}{suffix}": f"fused_ops::{op}::(anonymous namespace)::{op}{suffix}("
    for op in ("selective_share", "norm_act")
    for suffix in ("", "_backward")
}
SHARE_CHANNELS, SHARE_SIDE = 64, 16
NORM_CHANNELS, NORM_SIDE = 32, 48
# What one call works on: multiply-adds of a pair (12 C^2 per pixel forward, 24 backward), elements of a norm.
WORK = {
    "selective_share": 12 * SHARE_CHANNELS**2 * SHARE_SIDE**2,
    "selective_share_backward": 24 * SHARE_CHANNELS**2 * SHARE_SIDE**2,
    "norm_act": NORM_CHANNELS * NORM_SIDE**2,
    "norm_act_backward": NORM_CHANNELS * NORM_SIDE**2,
}


def why_not() -> str | None:
    """Why instructions cannot be counted here, or None."""
    if not shutil.which("valgrind") or not shutil.which("callgrind_annotate"):
        return "there is no valgrind"
    library = fused_ops.native.cpu_library()
    if not library.loaded:
        return library.reason
    return None if "avx2" in str(library.build) else "the CPU library has no AVX2 build of its kernels"


def count(tree: Path) -> dict[str, float]:
    """Instructions per unit of WORK of every function, for the ``fused_ops`` in ``tree``.

    Raises:
        RuntimeError: valgrind fails, or one of the functions was not seen.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "callgrind.out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--collect-atstart=no"]
        command += [f"--toggle-collect={pattern}*" for pattern in FUNCTIONS.values()]
        command += [sys.executable, "-m", "benchmarks.instructions", "--work"]
        environment = {**os.environ, **CAPS, "PYTHONPATH": str(tree)}
        _run(command, tree, environment)
        report = _run(
            ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(output)], tree, environment
        )
    found = {}
    for name, function in FUNCTIONS.items():
        line = next((line for line in report.splitlines() if function in line), None)
        match = re.match(r"\s*([\d,]+)", line or "")
        if match is None:
            raise RuntimeError(
                f"valgrind saw no call of {name}; is its function in csrc named otherwise now?"
            )
        found[name] = int(match[1].replace(",", "")) / CALLS / WORK[name]
    return found


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-1000:]}")
    return done.stdout


def work() -> None:
    """What is run under valgrind: each op CALLS times, forward and backward, in channels_last."""
    torch.manual_seed(0)
    share = fused_ops.FusedSelectiveShare(SHARE_CHANNELS)
    norm = fused_ops.FusedBatchNormAct2d(NORM_CHANNELS, activation="leaky_relu")
    features = [_features(SHARE_CHANNELS, SHARE_SIDE) for _ in range(2)]
    image = _features(NORM_CHANNELS, NORM_SIDE)
    with fused_ops.use("cpu"):
        for _ in range(CALLS):
            x, y = share(*features)
            torch.autograd.grad((x, y), [*features, *share.parameters()], (x.detach(), y.detach()))
            z = norm(image)
            torch.autograd.grad(z, [image, *norm.parameters()], z.detach())


def _features(channels: int, side: int) -> torch.Tensor:
    x = torch.randn(1, channels, side, side).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # in valgrind's process
    if parser.parse_args(arguments).work:
        work()
        return 0
    if reason := why_not():
        print(f"not counted: {reason}")
        return 2
    for name, value in count(Path(__file__).resolve().parent.parent).items():
        print(f"{name:26} {value:.4f} instructions per {'multiply-add' if 'share' in name else 'element'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
