"""What nvcc makes of csrc/*/cuda.cu, without a card: no spills, 16-byte accesses, ops that register."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from build_support import toolchain
from build_support.native_build import CUDA_ARCHITECTURES
from fused_ops import backends, native

ROOT = Path(__file__).resolve().parents[2]

# How many large tensors a kernel moves at least, each thread one 16-byte access for each.
MOVED = {
    "plane_rows_forward": 2,
    "plane_rows_backward": 3,
    "plane_parts_moments": 1,
    "plane_parts_forward": 2,
    "plane_parts_sums": 2,
    "plane_parts_backward": 3,
    "channel_rows_forward": 2,
    "channel_rows_backward": 3,
    "channel_parts_moments": 1,
    "channel_parts_forward": 2,
    "channel_parts_sums": 2,
    "channel_parts_backward": 3,
    "plane_pool": 2,
    "channel_pool": 5,
    "plane_unpool": 2,
    "channel_unpool": 5,
    "gather": 4,
    "scatter": 4,
    "reset_forward": 4,
    "mix_forward": 6,
    "mix_backward": 6,
    "reset_backward": 9,
}


@pytest.fixture(scope="module")
def library() -> Path:
    build = native.build_record().get("cuda", {"built": False, "reason": "the package was not installed"})
    if not build["built"]:
        pytest.skip(f"the CUDA library was not built: {build['reason'].splitlines()[0]}")
    return native.FOLDER / build["library"]


def ask_cuobjdump(library: Path, *options: str) -> str:
    """CUDA's own, or the one in triton's wheel."""
    places = [str(Path(toolchain.find_nvcc().command[0]).parent)] if shutil.which("nvcc") else []
    if (triton := find_spec("triton")) is not None and triton.origin is not None:
        places.append(str(Path(triton.origin).parent / "backends/nvidia/bin"))
    tool = next(filter(None, (shutil.which("cuobjdump", path=place) for place in places)), None)
    tool = tool or shutil.which("cuobjdump")
    if tool is None:
        pytest.skip("no cuobjdump (comes with CUDA and in triton's wheel)")
    return subprocess.run([tool, *options, str(library)], capture_output=True, text=True, check=True).stdout


def test_no_kernel_spills(library: Path) -> None:
    usage = ask_cuobjdump(library, "-res-usage")
    seen = set()
    for part in usage.split("arch = ")[1:]:
        architecture = part.split(maxsplit=1)[0]
        for name, facts in re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", part):
            seen.add((architecture, name))
            assert "STACK:0 " in facts and "LOCAL:0 " in facts, f"{name} on {architecture}: {facts}"
    kernels = {name for _, name in seen}
    assert {architecture for architecture, _ in seen} == {f"sm_{code}" for code in CUDA_ARCHITECTURES}
    assert len(seen) == len(kernels) * len(CUDA_ARCHITECTURES)
    for kernel in MOVED:
        assert sum(f"{len(kernel)}{kernel}I" in name for name in kernels) == 3, (
            f"{kernel}: not for all dtypes"
        )


def test_large_tensors_are_moved_16_bytes_at_a_time(library: Path) -> None:
    assembly = ask_cuobjdump(library, "-sass", "-arch", "sm_90")
    for part in assembly.split("Function : ")[1:]:
        name = part.split(maxsplit=1)[0]
        wide = len(re.findall(r"\b(?:LDG|STG)\.\S*128", part))
        for kernel, tensors in MOVED.items():
            if f"{len(kernel)}{kernel}I" in name:
                assert wide >= tensors, f"{name}: {wide} accesses of 16 bytes"


_STAND_IN = """
import ctypes, sys, torch
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
torch.ops.load_library(sys.argv[2])
for op in sys.argv[3:]:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fused_ops_cuda::{op}", "CUDA"), op
try:
    torch.ops.fused_ops_cuda.norm_act(torch.ones(1, 1, 2), *[None] * 7, 1, 1e-5, 0, 0.0)
except NotImplementedError as error:
    assert "CUDA" in str(error)
"""


def test_it_loads_without_a_card(library: Path, tmp_path: Path) -> None:
    """Into a CPU torch, with a stand-in for the few functions of libtorch_cuda that it calls.

    `make check-cuda-load` does so with a real one.
    """
    cxx = toolchain.find_cxx()
    torch_lib = toolchain.find_torch().root / "lib"
    if (torch_lib / "libtorch_cuda.so").is_file():
        pytest.skip("this torch has CUDA: fused_ops itself loads the library")
    needed = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    )
    names = [name for name in needed.stdout.split() if re.fullmatch(r"aoti_torch_\w*cuda_\w+", name)]
    assert "aoti_torch_get_current_cuda_stream" in names
    stubs = "".join(f'extern "C" int {name}() {{ return 1; }}\n' for name in names)
    (tmp_path / "stand_in.cpp").write_text(stubs)
    stand_in = tmp_path / "libtorch_cuda.so"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", "-x", "c++", str(tmp_path / "stand_in.cpp")]
    subprocess.run([*cxx.command, *flags, "-o", str(stand_in)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _STAND_IN, str(stand_in), str(library), *backends.ops("cuda")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("missing", ["norm_act", "norm_act_pool_backward", "selective_share_backward"])
def test_the_check_of_loading_asks_for_every_op(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make check-cuda-load` runs."""
    monkeypatch.setattr(native, "cuda_library", lambda: native.Status(True))
    monkeypatch.setattr(
        torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda op, key: op != f"fused_ops_cuda::{missing}"
    )
    with pytest.raises(SystemExit, match=f"^fused_ops_cuda::{missing} has no kernel for CUDA$"):
        runpy.run_path(str(ROOT / "tests/packaging/cuda_load.py"))


def test_the_host_code_neither_waits_nor_allocates() -> None:
    """So that a call can be captured in a CUDA graph: it asks, and starts kernels; memory is torch's."""
    called: set[str] = set()
    for path in [*ROOT.glob("csrc/*/cuda*"), *ROOT.glob("csrc/*/kernels.h")]:
        if path.name != "cuda_emulation.h":
            called |= set(re.findall(r"\b(cu(?:da)?[A-Z]\w*)\(", path.read_text()))
    assert called == {"cudaSetDevice", "cudaGetLastError", "cudaGetErrorString", "cudaDeviceGetAttribute"}
