"""What a run ran on, so that its figures can be read later."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "numpy",
    "torchmetrics",
    "scikit-learn",
    "pillow",
    "safetensors",
    "jsonargparse",
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's marketing name; ``platform.processor()`` is empty on most Linux systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checkout's commit, with "+" when its sources were changed; None where there is no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", "fer_mtl", "fused_ops", "csrc"
        ).strip()
        return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Versions, processor, threads, accelerator and commit, as JSON can hold them."""
    device = torch.device(device)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "commit": _commit(),
        # torch's own word: the package's may not say for which CUDA it was built.
        "versions": {"torch": str(torch.__version__)}
        | {name: version for name in PACKAGES if (version := _version(name))},
    }
