"""Finds and loads the native libraries, once and only when first asked for.

The build leaves `lib/build.json` beside them: what was built, for which torch, processors and cards, and
why the rest was not. Whoever asks gets a :class:`Status` and never an exception, so that a backend can pass
the reason on.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ENVIRONMENT_VARIABLE = "FUSED_OPS_NATIVE"
FOLDER = Path(__file__).parent / "lib"
# Dtypes that the kernels of each library have.
CPU_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CUDA_OPS = torch.ops.fused_ops_cuda  # the tests put an emulated library's here


@dataclass(frozen=True)
class Status:
    """Whether a library is loaded; if not, the reason in plain words."""

    loaded: bool
    reason: str = ""
    path: Path | None = None
    build: Mapping[str, Any] = field(default_factory=dict)  # this library's part of build.json


def cpu_library() -> Status:
    """Load the CPU library, unless that was tried before, and say how it went."""
    return _load("cpu")


def cuda_library() -> Status:
    """Load the CUDA library, unless that was tried before, and say how it went.

    It is only tried where torch itself has CUDA; no card need be present. Whether it serves a given card is
    :func:`why_not_card`'s to say.
    """
    return _load("cuda")


@functools.cache
def build_record() -> dict[str, Any]:
    """The whole of lib/build.json; empty when there is none."""
    try:
        record: dict[str, Any] = json.loads((FOLDER / "build.json").read_text())
    except FileNotFoundError:
        return {}
    return record


@functools.cache
def why_not_card(index: int) -> str | None:
    """Why the CUDA library cannot serve the card of this index, or None when it can."""
    library = cuda_library()
    if not library.loaded:
        return library.reason
    capability = torch.cuda.get_device_capability(index)
    return why_not_capability(capability, library.build) or why_not_driver(
        capability, library.build, driver_cuda()
    )


def why_not_cuda(tensor: Tensor) -> str | None:
    """Why the CUDA library cannot serve a tensor of this device, dtype and size, or None when it can."""
    if tensor.device.type != "cuda":
        return f"the tensors are on {tensor.device}"
    if tensor.dtype not in CUDA_DTYPES:
        return f"it has no kernel for {tensor.dtype}"
    if tensor.numel() == 0:
        return "the tensors are empty"
    return why_not_card(tensor.device.index)


def why_not_capability(capability: tuple[int, int], build: Mapping[str, Any]) -> str | None:
    """Why a build does not run on cards of this compute capability, or None when it does.

    Machine code runs on cards of its own generation from its own revision up; PTX is made into machine code
    for any later card.
    """
    if _has_machine_code(capability, build) or capability >= divmod(int(build["ptx"]), 10):
        return None
    names = ", ".join(f"sm_{code}" for code in build["architectures"])
    major, minor = capability
    return f"the CUDA library was built for {names}; this card is sm_{major}{minor}"


def _has_machine_code(capability: tuple[int, int], build: Mapping[str, Any]) -> bool:
    major, minor = capability
    built = (divmod(int(code), 10) for code in build["architectures"])
    return any(major == code_major and minor >= code_minor for code_major, code_minor in built)


def why_not_driver(
    capability: tuple[int, int], build: Mapping[str, Any], newest: tuple[int, int] | None
) -> str | None:
    """Why a build does not run under a driver that serves CUDA up to ``newest``, or None when it does.

    A driver runs machine code that any CUDA of its own major version made, but makes some only of PTX that
    is no newer than itself. What is not known stands in nobody's way.
    """
    made = re.search(r"release (\d+)\.(\d+)", build.get("compiler", ""))
    if made is None or newest is None:
        return None
    by = int(made[1]), int(made[2])
    if newest >= by or (newest[0] == by[0] and _has_machine_code(capability, build)):
        return None
    return (
        f"the CUDA library was built by CUDA {by[0]}.{by[1]}; "
        f"this driver serves CUDA up to {newest[0]}.{newest[1]}"
    )


@functools.cache
def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that this machine's driver serves; None where there is no driver."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


@functools.cache
def _load(name: str) -> Status:
    title = f"the native {name.upper()} library"
    record = build_record()
    build = record.get(name, {})

    def refuse(reason: str) -> Status:
        return Status(False, f"{title} {reason}", build=build)

    wish = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if wish == "0":
        return refuse(f"is switched off by {ENVIRONMENT_VARIABLE}=0")
    if wish not in ("", "1"):  # as likely as not it was meant to switch it off
        return refuse(f"is not loaded: {ENVIRONMENT_VARIABLE}={wish} is not understood; allowed are 0 and 1")
    if not record:
        return refuse("was never built: the package runs from a source tree that was not installed")
    if not build["built"]:
        return refuse(f"was not built: {build['reason'].splitlines()[0]}")
    here = f"{sys.platform}-{platform.machine()}"
    if record["platform"] != here:
        return refuse(f"was built for {record['platform']}; this is {here}")
    if torch.__version__ < record["torch_target"]:
        return refuse(
            f"was built for torch {record['torch_target']} and later; this is torch {torch.__version__}"
        )
    if name == "cuda" and torch.version.cuda is None:
        return refuse(f"needs a torch with CUDA; this is torch {torch.__version__}")
    path = FOLDER / build["library"]
    try:
        torch.ops.load_library(path)
    except OSError as error:
        cause = error.__cause__ or error  # torch wraps what the loader says
        return refuse(f"failed to load: {str(cause).splitlines()[0]}")
    return Status(True, path=path, build=build)
