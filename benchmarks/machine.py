"""What the figures were measured on: processor or card, versions, threads, commit; and whether it is idle."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fer_mtl.processors import available_processors
from fer_mtl.training.environment import environment

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("fused_ops", "fer_mtl", "csrc", "benchmarks/*.py")
BUSY = 0.25  # load per processor above which figures are not to be trusted


def describe(device: str) -> dict[str, Any]:
    """The environment of a measurement, as JSON can hold it."""
    found = environment(device)
    found["versions"] = {name: metadata.version(name) for name in ("torch", "pytest-benchmark")}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["memory_gib"] = round(properties.total_memory / 2**30)
        found["versions"]["cuda"] = torch.version.cuda
    else:
        found["isa"] = torch.backends.cpu.get_cpu_capability() + bfloat16_products()
        found["cap"] = os.environ.get("FUSED_OPS_CPU_ISA")
    found["commit"] = commit()
    return found


def bfloat16_products() -> str:
    """How the processor multiplies bfloat16, if it does: the same name is given to some that do not."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return ""
    return " AMX" if "amx_bf16" in flags else " BF16" if "avx512_bf16" in flags else ""


def commit() -> str | None:
    """The checkout's commit; with changed sources, a "+" and a hash of the changes. None without git."""
    try:
        changes = _git("diff", "HEAD", "--", *SOURCES)
        untracked = _git("ls-files", "--others", "--exclude-standard", "--", *SOURCES)
        for name in untracked.splitlines():
            changes += name + (ROOT / name).read_text(errors="replace")
        head = _git("rev-parse", "--short=12", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" + hashlib.sha256(changes.encode()).hexdigest()[:8] if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def slug(found: dict[str, Any]) -> str:
    """A folder's name for machines of this kind, e.g. ``cpu-intel-xeon-processor-avx512-2-threads``."""
    if found["device"] != "cpu":
        parts = ["cuda", found["device"]]
    else:
        parts = ["cpu", found["processor"], found["isa"], f"{found['threads']}-threads"]
    text = re.sub(r"\((r|tm)\)|@ *[\d.]+ *ghz", "", " ".join(parts).lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def load_warning() -> str | None:
    """A sentence where other programs keep the machine busy, else None."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return None
    processors = available_processors()
    if load <= BUSY * processors:
        return None
    return (
        f"the load of the last minute is {load:.1f} on {processors} processors: "
        "something else runs, so take the times for nothing but ratios"
    )
