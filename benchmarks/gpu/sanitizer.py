"""A few calls of every kernel under compute-sanitizer, which sees accesses beyond a tensor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.gpu.stages import ROOT, Context, Failed, LeftOut

ERROR_CODE = 86
HOMES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/nvidia/compute-sanitizer")


def find_tool() -> str | None:
    """Where compute-sanitizer is, or None."""
    places = (shutil.which("compute-sanitizer", path=path) for path in (None, *HOMES))
    return next(filter(None, places), None)


def run(context: Context) -> dict[str, Any]:
    """The small checks once more, under memcheck; dry, without it."""
    tool = find_tool()
    wrapper = [] if context.dry else [str(tool), "--tool", "memcheck", "--error-exitcode", str(ERROR_CODE)]
    if tool is None and not context.dry:
        raise LeftOut("compute-sanitizer is not installed")
    program = f"from benchmarks.gpu import checks; checks.small({context.device!r})"
    command = [*wrapper, sys.executable, "-c", program]
    # Without torch's cache every tensor is an allocation of its own, beyond which any access is an error.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=context.left
    )
    text = done.stdout + done.stderr
    print(text[-20_000:])
    summary = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "calls" in line]
    result = {"tool": tool, "code": done.returncode, "summary": summary[-2:]}
    if done.returncode == ERROR_CODE:
        raise Failed("memcheck found errors: " + " ".join(summary[-1:]), result)
    if done.returncode:
        raise Failed(f"the calls under memcheck ended with code {done.returncode}", result)
    return result
