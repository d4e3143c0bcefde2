"""Cross-validation: every fold and seed as a run of its own, then one report of them all.

A fold that is finished is not trained again, one that was stopped goes on where it was; so the same command
continues a cross-validation, and one with more seeds extends it. Images are decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.data.folds import Fold
from fer_mtl.evaluation.comparison import remove_comparison, write_comparison
from fer_mtl.evaluation.report import percent
from fer_mtl.evaluation.runs import load_crossval
from fer_mtl.files import alone, read_json, write_json
from fer_mtl.memory import keep_freed_memory
from fer_mtl.processors import available_processors
from fer_mtl.training.config import BUILT_ON, PLACE, TrainConfig, changes, to_dict
from fer_mtl.training.fold_folders import (
    FOLDS,
    fold_folder,
    fold_folders,
    is_crossval,
    matching,
    read_folds,
)  # fmt: skip
from fer_mtl.training.interrupt import Interrupted
from fer_mtl.training.run import load_faces, train_run
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.split import check_expressions, folds_of, missing_classes
from fer_mtl.training.synthetic import read_manifest
from fer_mtl.workers import busy, processes

# What may differ between a cross-validation and its continuation.
FREE = ("fold", "seed", *PLACE)


@dataclass(frozen=True)
class Job:
    """One fold of one seed."""

    config: TrainConfig
    folder: Path

    @property
    def name(self) -> str:
        return f"seed {self.config.seed}, fold {self.config.fold}"


def fold_config(config: TrainConfig, seed: int, fold: int) -> TrainConfig:
    """``config`` for one fold; runs that it builds on are narrowed down to the same fold of theirs."""
    built_on: dict[str, Any] = {
        name: None if getattr(config, name) is None else matching(getattr(config, name), seed, fold)
        for name in BUILT_ON
    }
    return replace(config, seed=seed, fold=fold, **built_on)


def finished(job: Job, classes: Sequence[str]) -> dict[str, Any] | None:
    """The fold's report.json, or None. ``ValueError`` when it was trained with other settings, or on other
    expressions."""
    run = RunFolder(job.folder)
    if not run.report.is_file():
        return None
    check_same(run.read_config(), job.config, run.config)
    report: dict[str, Any] = read_json(run.report)
    check_expressions(job.folder, report["per_class"], classes)
    return report


def check_same(found: TrainConfig, asked: TrainConfig, file: Path) -> None:
    """Raise ``ValueError`` naming the settings in which a continuation differs from what was begun."""
    if different := changes(to_dict(found), to_dict(asked), FREE):
        raise ValueError(
            f"{file} was begun with other settings: {different[0]}; choose another --out, or give --overwrite"
        )


def train_fold(job: Job, faces: FaceSet, console: Console | None = None) -> dict[str, Any]:
    """Train one fold, or go on with it, and return its report."""
    resume = RunFolder(job.folder).last.is_file()
    try:
        return train_run(
            job.config, job.folder, resume=resume, overwrite=not resume, faces=faces, console=console
        )
    except (RuntimeError, ValueError) as error:
        # Not a subclass, which may take other arguments.
        kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
        raise kind(f"{job.name}: {error}") from error


def share_images(faces: FaceSet) -> None:
    """Lay the images where every process reads them; ``OSError`` where they do not fit (a container has 64 MB
    unless told otherwise)."""
    try:
        faces.images.share_memory_()
    except RuntimeError as error:
        size = faces.images.numel() / 2**20
        raise OSError(
            f"workers share the images, {size:.1f} MB, in /dev/shm, which has not the room: a container gets "
            "more by --shm-size, and --workers 1 needs none"
        ) from error


def _start(threads: int) -> None:
    keep_freed_memory()  # as the command does for its own process
    torch.set_num_threads(threads)


def _in_worker(job: Job, faces: FaceSet) -> dict[str, Any]:
    with busy:
        return train_fold(job, faces)


def train_folds(
    jobs: Sequence[Job], faces: FaceSet, workers: int, console: Console
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Every job with its report, as they are done: one after the other in this process, or ``workers`` at a
    time, each in a process with its share of the threads (small networks gain more from that than from
    threads). When one fails, the others are stopped where they are.
    """
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            console.line(f"\n{job.name}")
            yield job, train_fold(job, faces, console)
        return
    share_images(faces)
    threads = jobs[0].config.threads or max(1, available_processors() // workers)
    left = list(jobs)
    running: dict[Future[dict[str, Any]], Job] = {}
    # No job is handed over before a process is free: after Ctrl-C, a waiting one would still be begun.
    with processes(workers, _start, (threads,)) as pool:
        while left or running:
            while left and len(running) < workers:
                job = left.pop(0)
                running[pool.submit(_in_worker, job, faces)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def run_crossval(
    config: TrainConfig,
    folder: str | Path,
    seeds: Sequence[int] = (0,),
    *,
    workers: int = 1,
    overwrite: bool = False,
    faces: FaceSet | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train and test every fold with every seed; returns the content of ``folder/report.json``.

    Raises:
        ValueError: seeds that repeat, fewer subjects than folds, or a folder that holds another
            cross-validation (of other settings, or of data that has changed since).
        Interrupted: after Ctrl-C; the same call continues (without ``overwrite``).
        BlockingIOError: another process is at work in the folder.
    """
    root, console = Path(folder), console or Console(quiet=True)
    seeds = list(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more distinct numbers, got {seeds}")
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    config = replace(config, fold=None, seed=seeds[0])
    faces = faces if faces is not None else load_faces(config)
    folds = folds_of(config, faces)
    jobs = [
        Job(fold_config(config, seed, fold.index), fold_folder(root, seed, fold.index))
        for seed in seeds
        for fold in folds
    ]
    console.line(faces.describe())
    for fold in folds:
        if missing := missing_classes(faces, fold.train):
            console.line(f"warning: fold {fold.index} leaves no training image of {', '.join(missing)}")
    with alone(root):
        begin(root, config, folds, seeds, overwrite)
        go_on = "the same command" + (" without --overwrite" if overwrite else "") + " continues"
        train_missing(jobs, faces, workers, console, go_on)
        return finish(root, console)


def train_missing(jobs: Sequence[Job], faces: FaceSet, workers: int, console: Console, go_on: str) -> None:
    """Train the folds that are not finished, and say what came of each; ``go_on`` is how to do so after a
    stop."""
    reports = {job.folder: report for job in jobs if (report := finished(job, faces.classes))}
    if reports:
        console.line(f"{len(reports)} of {len(jobs)} folds are finished already")
    left = [job for job in jobs if job.folder not in reports]
    for job in left:
        if job.config.synthetic is not None:
            read_manifest(job.config.synthetic)  # rather an error now than when other folds have taken hours
    try:
        for job, report in train_folds(left, faces, workers, console):
            reports[job.folder] = report
            console.line(
                f"{job.name}: accuracy {percent(report['accuracy'])}, macro recall "
                f"{percent(report['macro_recall'])}, {report['seconds'] / 60:.1f} min "
                f"({len(reports)} of {len(jobs)})"
            )
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of {workers} workers was killed (by the system, where memory is short: fewer --workers "
            f"need less) with {len(reports)} of {len(jobs)} folds finished; {go_on}"
        ) from error
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped with {len(reports)} of {len(jobs)} folds finished; {go_on}") from error


def finish(root: Path, console: Console) -> dict[str, Any]:
    """Write the whole report.json and report.html from the folds' own files."""
    run = load_crossval(root)
    write_json(root / "report.json", run.report)
    write_comparison([run], root)
    report = run.report
    spread = report["over_seeds"]["accuracy"]["deviation"]
    console.line(
        f"\naccuracy {percent(report['accuracy'])}"
        + ("" if spread is None else f" (deviation over seeds {100 * spread:.1f})")
        + f", macro recall {percent(report['macro_recall'])}, {report['seconds'] / 60:.0f} min of training; "
        f"report: {root / 'report.html'}"
    )
    return report


def begin(
    root: Path, config: TrainConfig, folds: Sequence[Fold], seeds: Sequence[int], overwrite: bool
) -> None:
    """Write config.yaml and folds.json, or check that those of an earlier start say the same, unless it came
    to nothing, as with a setting that the first fold refuses."""
    run = RunFolder(root)
    lists = [fold.to_json() for fold in folds]
    known: list[int] = []
    if overwrite:
        remove_crossval(root)
    elif not is_crossval(root):
        run.check_free()
    elif any(not RunFolder(path).unbegun() for path in fold_folders(root)):
        if run.config.is_file():
            check_same(run.read_config(), config, run.config)
        stored = read_folds(root)
        known = stored["seeds"]
        if stored["folds"] != lists:
            raise ValueError(
                f"{root / FOLDS} lists other folds: the data, or what makes the folds, has changed since; "
                "choose another --out"
            )
    root.mkdir(parents=True, exist_ok=True)
    # This one first: it says what the folder is, also where the disk is full before the other one is there.
    write_json(root / FOLDS, {"seeds": [*known, *(s for s in seeds if s not in known)], "folds": lists})
    run.write_config(config)


def remove_crossval(root: Path) -> None:
    """Remove the report and every fold of every seed, which would pass for results of what is begun anew, and
    nothing that a cross-validation has not written."""
    remove_comparison(root)
    (root / "report.json").unlink(missing_ok=True)
    for folder in fold_folders(root):
        RunFolder(folder).clear()
        for path in (folder, folder.parent):
            if not any(path.iterdir()):
                path.rmdir()
