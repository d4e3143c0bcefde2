"""Stages: each runs in a process of its own, within its time, so that none can take the others down.

A stage is a function of a :class:`Context` that prints what people read and returns what is kept as JSON. It
raises :class:`LeftOut` with the reason where it has nothing to do here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]


class LeftOut(Exception):
    """There is nothing to do here; the message is the reason."""


class Failed(Exception):
    """A stage found something wrong; ``result`` is what it has found, to be kept all the same."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Context:
    """What a stage is told: where to compute, whether only to see that the code runs, and until when.

    ``scratch`` is a folder in which stages find what earlier ones left.
    """

    stage: str
    device: str
    dry: bool
    seconds: float
    scratch: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds left, some kept back for ending in good order."""
        return self.seconds - min(10.0, 0.1 * self.seconds) - (time.monotonic() - self.began)

    def keep(self, result: Any) -> None:
        """Leave what was found so far, for the case that time runs out before the stage returns."""
        write_json(self.scratch / f"{self.stage}.partial.json", result)

    def backends(self) -> tuple[str, ...]:
        """The backends that a run on this device is about."""
        return ("reference", "cpu") if self.device == "cpu" else ("triton", "cuda")


@dataclass(frozen=True)
class Stage:
    """``run`` is "module:function" beside this file; ``seconds`` is what it may take."""

    name: str
    seconds: float
    run: str
    summary: str

    def function(self) -> Callable[[Context], Any]:
        module, _, name = self.run.partition(":")
        found: Callable[[Context], Any] = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)
        return found


@dataclass
class Outcome:
    """How a stage went: "passed", "failed", "out of time" or "left out"; with the reason, and its result."""

    stage: str
    state: str
    seconds: float
    reason: str = ""
    result: Any = None


def run_here(stage: Stage, context: Context) -> Outcome:
    """Run a stage in this process."""
    state, reason, result = "passed", "", None
    try:
        result = stage.function()(context)
    except LeftOut as error:
        state, reason = "left out", str(error)
    except ModuleNotFoundError as error:
        ours = (error.name or "").partition(".")[0] in ("benchmarks", "fused_ops", "fer_mtl", "build_support")
        state, reason = ("failed", str(error)) if ours else ("left out", f"needs the package {error.name}")
    except Failed as error:
        state, reason, result = "failed", str(error), error.result
    except Exception as error:  # whatever it is, the other stages still run
        traceback.print_exc()
        state, reason = "failed", in_a_line(error)
    return Outcome(stage.name, state, time.monotonic() - context.began, reason, result)


def in_a_line(error: Exception) -> str:
    """Its kind and the first line of its message."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


PROGRAM = (sys.executable, "-u", "-m", "benchmarks.gpu")


def run_apart(
    stage: Stage, arguments: Sequence[str], scratch: Path, seconds: float, log: TextIO,
    program: Sequence[str] = PROGRAM,
) -> Outcome:  # fmt: skip
    """Run a stage in a process of its own, which is ended with all its children when time is up.

    Args:
        arguments: those of the program that the stage's process gets, too.
        scratch: where its outcome is passed back.
        seconds: what it may take.
        log: gets its output.
        program: what is started.
    """
    answer = scratch / f"{stage.name}.json"
    command = [
        *program, *arguments,
        "--stage", stage.name, "--scratch", str(scratch), "--seconds", f"{seconds:.1f}",
    ]  # fmt: skip
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        found = read_json(scratch / f"{stage.name}.partial.json")
        return Outcome(stage.name, "out of time", time.monotonic() - began, f"after {seconds:.0f} s", found)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it started and left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    taken = time.monotonic() - began
    kept = read_json(scratch / f"{stage.name}.partial.json")
    if (found := read_json(answer)) is None:
        return Outcome(stage.name, "failed", taken, f"its process ended with code {code} and no answer", kept)
    # Of a stage that raised there is what it had kept.
    return Outcome(**{**found, "seconds": taken, "result": found["result"] or kept})


def write_outcome(outcome: Outcome, scratch: Path) -> None:
    """Leave an outcome for :func:`run_apart`."""
    write_json(scratch / f"{outcome.stage}.json", asdict(outcome))


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(content, file)
    os.replace(file.name, path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
