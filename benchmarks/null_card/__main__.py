"""``python -m benchmarks.null_card COMMAND...``: run a command with a card that computes nothing.

torch finds one (an H100, as far as it asks), allocates, launches and captures graphs on it, and Triton
compiles and loads its kernels; but no kernel runs, and results are whatever lies in memory. So the code
around the kernels runs without a card, with torch's own allocator and a card's rules: during a capture
nothing waits, takes memory or copies from pageable memory, launches keep its limits, pointers are its
own.

    python -m benchmarks.null_card python -m benchmarks.gpu --only tune,ops     # after make gpu's build
    python -m benchmarks.null_card python -m benchmarks.null_card.steps

It needs torch built for CUDA 13 on Linux, nvcc and a C++ compiler; NULL_CARDS=2 makes two cards. ``card.cpp``
and ``libraries.cpp`` come before CUDA's runtime, its driver, cuBLAS and cuDNN (LD_PRELOAD); of the other
functions of these that torch and Triton name, all do nothing. Our CUDA library, into which nvcc links the
real runtime, is linked anew with this one, and put back at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from build_support import toolchain

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "null_card"
LIBRARY = "libcuda.so.1"  # under this name Triton looks for the driver
TORCH_LIBRARIES = ("libtorch_cuda.so", "libc10_cuda.so", "libcaffe2_nvrtc.so")
TAKEN = re.compile(r"(__cuda|cuda[A-Z]|cu[A-Z]|cublas|cudnn)")
# cuDNN's own answers are right without a card: its version, and texts.
LEFT = re.compile(r"cudnnGet(Version|Property|CudartVersion|ErrorString|LastErrorString)$|cuFile")
# What Triton's driver asks for beside that.
BY_TRITON = ("cuInit", "cuCtxSetLimit", "cuFuncSetCacheConfig", "cuModuleUnload", "cuTensorMapEncodeTiled")


def undefined(libraries: Iterable[Path]) -> set[str]:
    """What these libraries take from others, by name."""
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", *map(str, libraries)], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition("@")[0] for name in re.findall(r"^ *U (\S+)", listing, re.MULTILINE)}


def defined(library: Path) -> set[str]:
    """What this library offers, by name."""
    command = ["nm", "-D", "--defined-only", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listing.splitlines()}


def build(torch_root: Path) -> Path:
    """Build the card for the torch that is installed there; the library."""
    nvcc, cxx = toolchain.find_nvcc().command, toolchain.find_cxx().command
    includes = [f"-I{path}" for path in torch_root.parent.glob("nvidia/*/include")]
    FOLDER.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in ("card", "libraries"):
        objects.append(str(FOLDER / f"{source}.o"))
        flags = ["-ccbin", cxx[0], "-std=c++20", "-O1", "-Xcompiler", "-fPIC,-w", *includes]
        subprocess.run([*nvcc, *flags, "-c", str(HERE / f"{source}.cpp"), "-o", objects[-1]], check=True)
    library = FOLDER / LIBRARY
    link = [*cxx, "-shared", *objects, "-ldl", f"-Wl,-soname,{LIBRARY}", "-o", str(library)]
    subprocess.run(link, check=True)
    wanted = {*BY_TRITON, *undefined(torch_root / "lib" / name for name in TORCH_LIBRARIES)}
    names = sorted(name for name in wanted - defined(library) if TAKEN.match(name) and not LEFT.match(name))
    rest = FOLDER / "rest.cpp"
    rest.write_text("".join(f'extern "C" int {name}() {{ return 0; }}\n' for name in names))
    subprocess.run([*link, "-fPIC", str(rest)], check=True)
    (FOLDER / "libcuda.so").unlink(missing_ok=True)
    (FOLDER / "libcuda.so").symlink_to(LIBRARY)  # by which Triton links
    return library


@contextlib.contextmanager
def ours(torch_root: Path) -> Iterator[None]:
    """Within the context our CUDA library uses this runtime."""
    folder, target = ROOT / "build" / "native" / "cuda", ROOT / "fused_ops" / "lib" / "libfused_ops_cuda.so"
    objects = sorted(map(str, folder.glob("*.cuda.o")))
    if not objects or not target.exists():
        print(
            "null card: our CUDA library was not built here, Triton's kernels are there alone",
            file=sys.stderr,
        )
        yield
        return
    libraries = ["-Wl,--no-as-needed", f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-ltorch_cuda", "-lc10"]
    real, other = FOLDER / target.name, FOLDER / f"null_{target.name}"
    link = [*toolchain.find_cxx().command, "-shared", *objects, *libraries, "-o", str(other)]
    subprocess.run(link, check=True)
    shutil.copy2(target, real)
    try:
        shutil.copy2(other, target)
        yield
    finally:
        shutil.copy2(real, target)


def why_not() -> str | None:
    """Why this cannot work here, or None."""
    import torch

    if not (torch.version.cuda or "").startswith("13"):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return f"it needs torch built for CUDA 13; {torch.__version__} is built {built}"
    return "it is for machines without a card; here is one" if torch.cuda.is_available() else None


def main(command: Sequence[str]) -> int:
    """The command's exit status; 2 where it was not run."""
    reason = why_not() if command else "which command?"
    if reason:
        print(f"null_card: {reason}", file=sys.stderr)
        return 2
    import torch

    root = Path(torch.__file__).parent
    try:
        library = build(root)
    except toolchain.Missing as error:
        print(f"null_card: {error}", file=sys.stderr)
        return 2
    searched = [str(FOLDER), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = {
        **os.environ, "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": os.pathsep.join(searched),
        "TRITON_LIBCUDA_PATH": str(FOLDER), "TRITON_CACHE_DIR": str(FOLDER / "triton"),
    }  # fmt: skip
    with ours(root):
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
