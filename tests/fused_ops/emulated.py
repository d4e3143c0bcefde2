"""The CUDA kernels on an emulated device: their sources compiled as C++ (csrc/common/cuda_emulation.h).

The library that is built here registers the same ops as the CUDA one, for tensors on the CPU.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from build_support import native_build, toolchain
from build_support.runner import Step, run_steps
from fused_ops import backends, native, use

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "emulated"
# -O1 takes a third of the time of -O2; a jump between stacks is what _FORTIFY_SOURCE takes for a mistake.
FLAGS = ("-std=c++20", "-O1", "-Wall", "-Wno-unknown-pragmas", "-fPIC", "-fvisibility=hidden")
FLAGS += ("-U_FORTIFY_SOURCE",)


def compile_emulated(sources: list[Path], name: str) -> Path:
    """A shared library of sources written for nvcc, compiled for the emulated device."""
    try:
        cxx, torch_found = toolchain.find_cxx(), toolchain.find_torch()
    except toolchain.Missing as reason:
        pytest.skip(str(reason))
    objects = [FOLDER / f"{source.parent.name}.{source.stem}.o" for source in sources]
    library = FOLDER / f"lib{name}.so"
    compiler = (*cxx.command, *FLAGS, *native_build._torch_flags(torch_found), "-MMD")
    steps = [
        Step(
            output,
            (source,),
            (*compiler, "-MF", f"{output}.d", "-x", "c++", "-c", str(source), "-o", str(output)),
            depfile=True,
        )
        for source, output in zip(sources, objects, strict=True)
    ]
    link = (*cxx.command, "-shared", *map(str, objects), f"-L{torch_found.root / 'lib'}")
    link += ("-Wl,--no-as-needed", "-ltorch_cpu", "-lc10", "-o", str(library))
    run_steps([*steps, Step(library, tuple(objects), link)], ROOT, FOLDER)
    return library


@functools.cache
def library() -> ctypes.CDLL:
    """The emulated CUDA library, loaded: its ops are in ``torch.ops.fused_ops_emulated``."""
    sources = [*sorted(ROOT.glob("csrc/*/cuda.cu")), ROOT / "tests/csrc/emulation.cpp"]
    path = compile_emulated(sources, "fused_ops_cuda_emulated")
    torch.ops.load_library(path)
    return ctypes.CDLL(str(path))


@contextmanager
def device(most_threads: int = 512, processors: int = 4, reversed_order: bool = False) -> Iterator[None]:
    """Within the context the backend "cuda" serves tensors on the CPU, by emulated kernels.

    ``most_threads``: of a block. With few, rows that a real block holds are too long to fit on chip. Torch's
    own products, which stand between the kernels, run on one thread: with more their sums may go another way.
    """
    emulation = library()
    emulation.emulation_set(processors, most_threads, int(reversed_order))
    table = backends._implementations
    before = {op: table[op]["cuda"] for op in table if "cuda" in table[op]}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    native.CUDA_OPS = torch.ops.fused_ops_emulated
    for op, implementation in before.items():
        table[op]["cuda"] = backends.Implementation(implementation.run, lambda *args: None)
    try:
        with use("cuda"):
            yield
    finally:
        torch.set_num_threads(threads)
        native.CUDA_OPS = torch.ops.fused_ops_cuda
        for op, implementation in before.items():
            table[op]["cuda"] = implementation


def launches() -> int:
    """Kernels started since the device was set."""
    return int(library().emulation_launches())


def moved() -> int:
    """Bytes of global memory that they read and wrote, each access counted."""
    return int(library().emulation_moved())
