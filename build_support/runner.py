"""Runs the build steps: through ninja where it is present, else a few at a time in threads."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools.errors import BaseError

from . import toolchain

_MESSAGE_LINES = 20
_ERROR = re.compile(r"\berror:|undefined reference")


class BuildFailure(BaseError):
    """A native library was asked for and cannot be built; setuptools shows the message alone."""


@dataclass(frozen=True)
class Step:
    """One command that makes `output` from `inputs`.

    With `depfile` it also writes `output`.d, the headers it read.
    """

    output: Path
    inputs: tuple[Path, ...]
    command: tuple[str, ...]
    depfile: bool = False


def jobs() -> int:
    """How many commands run at once: MAX_JOBS, else the processors this process may use."""
    text = os.environ.get("MAX_JOBS", "")
    if not text:
        # As fer_mtl/processors.py has it, which an isolated build cannot import.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or int(text) < 1:
        raise BuildFailure(f"MAX_JOBS={text} is not understood; allowed: a whole number from 1 up")
    return int(text)


def run_steps(steps: Sequence[Step], root: Path, folder: Path) -> None:
    """Run all steps in `root`, inputs before what is made of them.

    Raises BuildFailure with the last lines that the failing command said.
    """
    for step in steps:
        step.output.parent.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds of one tree share the folder of objects
        if ninja := toolchain.find_ninja():
            script = folder / "build.ninja"
            script.write_text(ninja_script(steps, folder))
            _run([ninja, "-f", str(script), "-j", str(jobs())], root)
        else:
            _run_in_threads(steps, root)


def _run(command: Sequence[str], root: Path) -> None:
    result = toolchain.run_quietly(command, cwd=root)
    print(result.stdout, end="")
    if result.returncode:
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        first = next(filter(_ERROR.search, lines), toolchain.last_line(result.stdout))
        raise BuildFailure("\n".join([f"compilation failed: {first}", *lines[-_MESSAGE_LINES:]]))


def _run_in_threads(steps: Sequence[Step], root: Path) -> None:
    """Every step whose inputs are not made by another one, then the next wave."""
    waiting = list(steps)
    with ThreadPoolExecutor(jobs()) as pool:
        while waiting:
            pending = {step.output for step in waiting}
            wave = [step for step in waiting if not pending & set(step.inputs)]
            list(pool.map(lambda step: _run(step.command, root), wave))
            waiting = [step for step in waiting if step not in wave]


def ninja_script(steps: Sequence[Step], folder: Path) -> str:
    """The steps as a ninja file. It rebuilds what changed: a source, a header it reads, or a command."""
    lines = [f"builddir = {_escape(str(folder))}", "rule plain", "  command = $cmd"]
    lines += ["rule compile", "  command = $cmd", "  depfile = $out.d", "  deps = gcc"]
    for step in steps:
        inputs = " ".join(_escape_path(path) for path in step.inputs)
        lines.append(f"build {_escape_path(step.output)}: {'compile' if step.depfile else 'plain'} {inputs}")
        lines.append(f"  cmd = {_escape(shlex.join(step.command))}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("$", "$$")


def _escape_path(path: Path) -> str:
    return _escape(str(path)).replace(" ", "$ ").replace(":", "$:")
