"""Finds what a native build needs: the installed torch, a C++ compiler, nvcc, ninja.

Nothing here imports torch: inside an isolated build it is not importable, and reading two files is enough.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# The stable ABI that the libraries are compiled for; they load into this torch and every later one.
TORCH_TARGET = (2, 10)
TORCH_TARGET_TEXT = ".".join(map(str, TORCH_TARGET))


class Missing(Exception):
    """Something the native build needs is not here; the message says what, and what would mend it."""


@dataclass(frozen=True)
class Torch:
    """An installed torch: its folder and version."""

    root: Path
    version: str


@dataclass(frozen=True)
class Compiler:
    """A compiler that was seen to work: its command and the first line of its `--version`."""

    command: tuple[str, ...]
    version: str


def _site_folders() -> Iterator[Path]:
    """Every site-packages folder that may belong to the environment the package is being built for.

    An isolated build hides the environment's packages from `sys.path`, but pip runs it with the environment's
    own interpreter, so sysconfig still names them. Front ends that make a whole virtual environment for the
    build are covered by the interpreter below it and by VIRTUAL_ENV and CONDA_PREFIX.
    """
    yield from (Path(entry) for entry in sys.path if entry)
    prefixes = [{}, {"base": sys.base_prefix, "platbase": sys.base_prefix}]
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := os.environ.get(variable):
            prefixes.append({"base": prefix, "platbase": prefix})
    for variables in prefixes:
        for scheme in (sysconfig.get_default_scheme(), "posix_prefix", "venv"):
            if scheme in sysconfig.get_scheme_names():
                paths = sysconfig.get_paths(scheme, vars=variables or None)
                yield from (Path(paths["purelib"]), Path(paths["platlib"]))
    yield Path(site.getusersitepackages())
    yield Path("/usr/lib/python3/dist-packages")


def find_torch() -> Torch:
    """The first installed torch that is new enough to compile against.

    Raises Missing when there is none, naming any older one that was seen.
    """
    seen = []
    for folder in dict.fromkeys(_site_folders()):
        root = folder / "torch"
        version_file = root / "version.py"
        if not version_file.is_file():
            continue
        match = re.search(r"^__version__ = '(\d+)\.(\d+)([^']*)'", version_file.read_text(), re.MULTILINE)
        if match is None:
            continue
        version = f"{match[1]}.{match[2]}{match[3]}"
        if (int(match[1]), int(match[2])) >= TORCH_TARGET and (root / "include/torch/csrc/stable").is_dir():
            return Torch(root, version)
        seen.append(version)
    found = f" (found only {', '.join(seen)})" if seen else ""
    raise Missing(f"no installed torch >= {TORCH_TARGET_TEXT} to compile against{found}: install torch first")


def run_quietly(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command; its output, errors included, comes back as text."""
    return subprocess.run(  # type: ignore[call-overload]
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options
    )


def last_line(text: str) -> str:
    """The last line with anything on it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _version_line(command: Sequence[str], pattern: str = "") -> str:
    lines = [
        line.strip() for line in run_quietly([*command, "--version"]).stdout.splitlines() if line.strip()
    ]
    return next((line for line in lines if pattern in line), "unknown version")


def accepts(command: Sequence[str], flags: Sequence[str], source: str = "int main() { return 0; }\n") -> str:
    """Compile a few lines with these flags; the compiler's complaint, or "" when it has none."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text(source)
        result = run_quietly([*command, *flags, "-c", str(probe), "-o", str(probe.with_suffix(".o"))])
    return "" if result.returncode == 0 else last_line(result.stdout)


def find_cxx() -> Compiler:
    """The C++ compiler: CXX, else the first of c++, g++ and clang++ on PATH. It must know C++20.

    Raises Missing when there is none or it does not.
    """
    wish = shlex.split(os.environ.get("CXX", ""))
    candidates = [wish] if wish else [["c++"], ["g++"], ["clang++"]]
    complaint = ""
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        complaint = accepts(command, ["-std=c++20"], "#include <concepts>\n#include <bit>\n")
        if not complaint:
            return Compiler(tuple(command), _version_line(command))
        complaint = f"; {command[0]} does not compile C++20: {complaint}"
    names = " ".join(command[0] for command in candidates)
    raise Missing(f"no working C++20 compiler (looked for {names}{complaint})")


def find_nvcc() -> Compiler:
    """nvcc from CUDA_HOME, PATH or /usr/local/cuda. Raises Missing when there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    on_path = shutil.which("nvcc")
    places = [Path(home) / "bin/nvcc" for home in homes[:2] if home]
    places += [Path(on_path)] if on_path else []
    places += [Path("/usr/local/cuda/bin/nvcc")]
    for nvcc in places:
        if os.access(nvcc, os.X_OK):
            return Compiler((str(nvcc),), _version_line([str(nvcc)], pattern="release"))
    raise Missing("no nvcc (looked in CUDA_HOME, PATH and /usr/local/cuda)")


def find_ninja() -> str | None:
    """ninja on PATH or among the interpreter's own scripts (an environment need not be activated)."""
    return shutil.which("ninja") or shutil.which("ninja", path=sysconfig.get_path("scripts"))
