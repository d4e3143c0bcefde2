"""A few calls of every kernel under compute-sanitizer, which sees accesses beyond a tensor."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
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
    # Not errors that the driver's functions return: libraries ask it for what may not be there, and go on.
    options = ["--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", str(ERROR_CODE)]
    wrapper = [] if context.dry else [str(tool), *options]
    if tool is None and not context.dry:
        raise LeftOut("compute-sanitizer is not installed")
    until = time.monotonic() + 0.8 * context.left  # the clock is the same in all processes
    program = f"from benchmarks.gpu import checks; checks.small({context.device!r}, {until})"
    command = [*wrapper, sys.executable, "-u", "-c", program]
    # Without torch's cache every tensor is an allocation of its own, beyond which any access is an error.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    code: int | None = None
    # A file, not a pipe: it holds what was said before time was up, and nobody waits for a child to let go.
    with (context.scratch / "sanitizer.txt").open("w+") as output:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                timeout=context.left,
            ).returncode  # fmt: skip
        output.seek(0)
        text = output.read()
    print(text[-20_000:])
    found = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "calls" in line]
    result = {"tool": tool, "code": code, "summary": found[-2:]}
    if code is None:
        raise Failed("time was up within a call", result)
    if code and "Device not supported" in text:
        raise LeftOut("compute-sanitizer does not support this card here")
    if code == ERROR_CODE:
        raise Failed("memcheck found errors: " + " ".join(found[-1:]), result)
    if code:
        raise Failed(f"the calls under memcheck ended with code {code}", result)
    return result
