"""What belongs to any result, and the native libraries built in place, as an editable install would."""

from __future__ import annotations

import os
import platform
import shutil
import tomllib
from importlib import metadata
from typing import Any

import torch

from benchmarks import machine
from benchmarks.gpu.stages import ROOT, Context, write_json

FACTS = "facts.json"
PACKAGES = ("torch", "triton", "numpy", "pytest", "matplotlib", "safetensors")


def run(context: Context) -> dict[str, Any]:
    """Build, and say what can be loaded."""
    os.environ.setdefault("FUSED_OPS_BUILD", "auto")
    folder = ROOT / "fused_ops" / "lib"
    if context.dry:  # the build's own tests build; here what is there stays as it is
        os.environ["FUSED_OPS_BUILD"] = "none"
        folder = context.scratch / "lib"
    from build_support import native_build

    # No installed package need be here to ask; where one is, tests hold the libraries to its version.
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    built = native_build.build(ROOT, folder, version)
    from fused_ops import __main__ as command
    from fused_ops import native

    if not context.dry:
        command.doctor()
    found: dict[str, Any] = {"built": sorted(path.name for path in built)}
    for name, status in (("cpu", native.cpu_library()), ("cuda", native.cuda_library())):
        found[f"{name} library"] = "loaded" if status.loaded else status.reason
        print(f"{name} library: {found[f'{name} library']}")
    return found


def leave_facts(context: Context) -> None:
    """What belongs to any result: versions, commit and card; said and left by the first stage's process."""
    if not (context.scratch / FACTS).exists():
        found = facts(context)
        print(found)
        write_json(context.scratch / FACTS, found)


def facts(context: Context) -> dict[str, Any]:
    """Versions, commit and card, as JSON can hold it."""
    found: dict[str, Any] = {
        "device": "cpu",
        "dry": context.dry,
        "python": platform.python_version(),
        "commit": machine.commit(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "cuda": torch.version.cuda,
        "nvcc": shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"),
    }
    if context.device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "cards": torch.cuda.device_count(),
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30),
            "l2_mib": round(properties.L2_cache_size / 2**20),
            "processors": properties.multi_processor_count,
        }
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
