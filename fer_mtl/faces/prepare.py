"""Detect, align and crop the faces of many pictures, in parallel, so that a stopped run goes on where it was.

In the folder of the results, `.prepare/` keeps the settings, a row per finished picture (`done.csv`) and one
per picture that failed, with the reason (`failed.csv`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fer_mtl.console import Console
from fer_mtl.data.files import PREPARED
from fer_mtl.data.images import ImageError, Picture, expect_large_photographs, open_image
from fer_mtl.data.registry import DATASETS
from fer_mtl.faces.align import align
from fer_mtl.faces.detector import Detector
from fer_mtl.faces.face import Face
from fer_mtl.files import alone, append_text, read_json, replacing, write_bytes, write_json, write_text
from fer_mtl.workers import busy, processes

STATE = PREPARED
_CHUNK = 8  # pictures handed to a process at once


@dataclass(frozen=True)
class Job:
    """One picture. name: what to call it; target: where its face goes, relative to the folder of results;
    picture: what to open."""

    name: str
    target: str
    picture: Path | Picture


@dataclass(frozen=True)
class Outcome:
    """What became of a picture. aligned: "five points", "eyes" or "box", "" when it failed; faces: how many
    were found, of which the largest was taken; reason: why it failed."""

    name: str
    target: str
    aligned: str = ""
    faces: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Worker:
    """Does one job; built once in every process. `make` returns the detector."""

    make: Callable[[], Detector]
    out: Path
    size: int = 110
    require_eyes: bool = False

    def start(self) -> Callable[[Job], Outcome]:
        detector = self.make()

        def work(job: Job) -> Outcome:
            try:
                image = open_image(job.picture) if isinstance(job.picture, Path) else job.picture.open()
                faces = detector.detect(np.asarray(image.convert("RGB")))
            except (ImageError, OSError) as error:
                return Outcome(job.name, job.target, reason=" ".join(str(error).split()))
            # A face that cannot be written, as on a full disk, is no fault of its picture and ends the work.
            return self._crop(image, faces, job)

        return work

    def _crop(self, image: Image.Image, faces: Sequence[Face], job: Job) -> Outcome:
        if not faces:
            return Outcome(job.name, job.target, reason="no face found")
        face = max(faces, key=lambda found: found.area)
        if self.require_eyes and not face.points:
            return Outcome(job.name, job.target, faces=len(faces), reason="no eyes found")
        save(align(image, face, self.size), self.out / job.target)
        return Outcome(
            job.name, job.target, {0: "box", 2: "eyes", 5: "five points"}[len(face.points)], len(faces)
        )


def prepare(
    jobs: Sequence[Job],
    out: Path,
    make: Callable[[], Detector],
    *,
    settings: dict[str, Any],
    size: int = 110,
    require_eyes: bool = False,
    workers: int = 1,
    console: Console | None = None,
) -> list[Outcome]:
    """Crop the faces of all pictures into `out`; those finished by an earlier run are not done again.

    make: returns the detector; with more than one worker it must be picklable
    settings: what distinguishes these results (the source, the detector, ...); they must not change from one
        run to the next, and size and require_eyes are added to them
    require_eyes: let a picture fail whose eyes are not found, instead of cropping it by the face's box

    Returns the outcome of every picture, in order. Raises ValueError when `out` holds something else or was
    prepared with other settings, BlockingIOError when another process is at work in it, OSError when a face
    cannot be written, and what `make` raises.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 16:
        raise ValueError(f"size must be an int of at least 16, got {size!r}")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be an int of at least 1, got {workers!r}")
    make()  # a detector that cannot be made says so here, before any folder or process is
    with alone(out):
        _claim(out, {**settings, "size": size, "require_eyes": require_eyes})
        table = out / STATE / "done.csv"
        _mend(table)
        done = {o.name: o for o in _read(table) if (out / o.target).is_file()}
        todo = [job for job in jobs if job.name not in done]
        worker, console = Worker(make, out, size, require_eyes), console or Console(quiet=True)
        failed: list[Outcome] = []
        try:
            with console.bar("faces", len(jobs), len(jobs) - len(todo)):
                for outcome in _work(worker, todo, workers):
                    if outcome.aligned:
                        append_text(table, _row(astuple(outcome)))
                        done[outcome.name] = outcome
                    else:
                        failed.append(outcome)
                    console.advance()
        finally:
            rows = [("file", "reason"), *((o.name, o.reason) for o in failed)]
            write_text(out / STATE / "failed.csv", "".join(_row(row) for row in rows))
    reasons = {outcome.name: outcome for outcome in failed}
    return [done.get(job.name) or reasons[job.name] for job in jobs]


def save(image: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all, in the format that the name asks for, with little or no loss."""
    options: dict[str, Any] = {}
    if path.suffix.lower() in (".jpg", ".jpeg"):
        options = {"quality": 95, "subsampling": 0}
    elif path.suffix.lower() == ".webp":
        options = {"lossless": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        image.save(file, format=Image.registered_extensions()[path.suffix.lower()], **options)


def _work(worker: Worker, jobs: Sequence[Job], workers: int) -> Iterator[Outcome]:
    if workers == 1 or len(jobs) <= _CHUNK:
        yield from map(worker.start(), jobs)
        return
    with processes(min(workers, -(-len(jobs) // _CHUNK)), _start, (worker,)) as pool:
        yield from pool.map(_do, jobs, chunksize=_CHUNK)


_started: Callable[[Job], Outcome] | None = None


def _start(worker: Worker) -> None:
    global _started
    torch.set_num_threads(1)
    expect_large_photographs()  # as the command does for its own process
    _started = worker.start()


def _do(job: Job) -> Outcome:
    if _started is None:
        raise RuntimeError("the process was not started")
    with busy:
        return _started(job)


def resolved(source: str) -> str:
    """A source, "FOLDER" or "NAME:FOLDER", with its folder in full: "photos", "photos/" and "./photos" are
    one."""
    name, colon, folder = source.partition(":")
    if not (name in DATASETS and folder):
        name, colon, folder = "", "", source
    return f"{name}{colon}{Path(folder).expanduser().resolve()}"


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder ours, or see that it is and was made alike."""
    path = out / STATE / "settings.json"
    if path.is_file():
        before = read_json(path)
        for name, value in settings.items():
            was = before.get(name)
            if was != value and not (name == "source" and was and resolved(was) == resolved(value)):
                raise ValueError(
                    f"{out} was prepared with {name} {was!r}, not {value!r}: name another folder"
                )
        return
    # An empty folder of ours is what a full disk leaves.
    if any(found != out / STATE or any(found.iterdir()) for found in out.iterdir()):
        raise ValueError(f"{out} exists and was not made by `fer-mtl prepare`: name a new folder")
    (out / STATE).mkdir(exist_ok=True)
    write_json(path, settings)


def _mend(path: Path) -> None:
    """Begin the table, or cut off the last row where a run that was killed, or a full disk, has left a part
    of it: its picture is simply done again."""
    content = path.read_bytes() if path.is_file() else b""
    rows = content[: content.rfind(b"\n") + 1] or _row(field.name for field in fields(Outcome)).encode()
    if rows != content:
        write_bytes(path, rows)


def _read(path: Path) -> Iterator[Outcome]:
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if len(row) == len(fields(Outcome)) and row[3].isdigit():
                yield Outcome(row[0], row[1], row[2], int(row[3]))


def _row(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
