"""Finished runs as the comparison of runs needs them: single folds and cross-validations alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fer_mtl.evaluation.evaluate import figures_of
from fer_mtl.evaluation.predictions import Predictions, concatenate, read_csv
from fer_mtl.evaluation.statistics import mean_interval, subject_interval
from fer_mtl.files import read_json
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.fold_folders import fold_folder, is_crossval, read_folds
from fer_mtl.training.methods import method_of
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.starting import data_name

OVER_SEEDS = ("accuracy", "macro_f1", "macro_recall")
COUNTED = ("images", "sources", "pairs")
"""What all folds have together, among the figures of synthesis: a rare expression has no source in some."""


@dataclass(frozen=True)
class Run:
    """A cross-validation, or one fold as a cross-validation of one fold and one seed.

    ``report`` is the content of report.json; ``predictions`` those of every (seed, fold).
    """

    folder: Path
    config: TrainConfig
    report: dict[str, Any]
    predictions: dict[tuple[int, int], Predictions]

    @property
    def method(self) -> str:
        return method_of(self.config)

    @property
    def data(self) -> str:
        return data_name(self.config.data)

    @property
    def known_subjects(self) -> bool:
        """Whether the data set tells who is who."""
        return bool(self.report["known_subjects"])

    @property
    def name(self) -> str:
        """Method and folder, to tell runs of one method apart."""
        return f"{self.method} [{self.folder.name}]"


def load_run(folder: str | Path) -> Run:
    """A finished run. ``FileNotFoundError`` or ``ValueError`` naming the folder where there is none."""
    folder = Path(folder)
    return load_crossval(folder) if is_crossval(folder) else load_fold(folder)


def read_report(folder: Path) -> dict[str, Any]:
    if not (folder / "report.json").is_file():
        raise FileNotFoundError(f"{folder} holds no finished run (no report.json)")
    content: dict[str, Any] = read_json(folder / "report.json")
    return content


def load_fold(folder: Path) -> Run:
    """One run of `fer-mtl train`, with what a cross-validation's report has."""
    report, config = read_report(folder), RunFolder(folder).read_config()
    if config.fold is None:
        raise ValueError(f"{folder} tested no fold (it was trained on every subject)")
    key = (config.seed, config.fold)
    return make_run(folder, config, {key: report}, {key: read_csv(RunFolder(folder).predictions)})


def load_crossval(root: Path) -> Run:
    """All finished folds of the seeds that are complete. ``ValueError`` where no seed is."""
    stored, config = read_folds(root), RunFolder(root).read_config()
    numbers = [fold["index"] for fold in stored["folds"]]
    folders = {(seed, k): fold_folder(root, seed, k) for seed in stored["seeds"] for k in numbers}
    done = {key for key, folder in folders.items() if (folder / "report.json").is_file()}
    complete = [seed for seed in stored["seeds"] if all((seed, k) in done for k in numbers)]
    if not complete:
        raise ValueError(f"{root} is not finished: {len(done)} of {len(folders)} folds are")
    keys = [(seed, k) for seed in complete for k in numbers]
    reports = {key: read_report(folders[key]) for key in keys}
    predictions = {key: read_csv(RunFolder(folders[key]).predictions) for key in keys}
    return make_run(root, config, reports, predictions)


def make_run(
    folder: Path,
    config: TrainConfig,
    reports: Mapping[tuple[int, int], dict[str, Any]],
    predictions: dict[tuple[int, int], Predictions],
) -> Run:
    """Pool the folds: each seed's figures over all its images, their mean over the seeds.

    ``confusion``, ``per_class`` and ``calibration`` count the images of all seeds together.
    """
    seeds = list(dict.fromkeys(seed for seed, _ in reports))
    pooled = {
        seed: concatenate([found for (s, _), found in predictions.items() if s == seed]) for seed in seeds
    }
    by_seed = {seed: figures_of(found) for seed, found in pooled.items()}
    over_seeds = {name: mean_interval([by_seed[seed][name] for seed in seeds]) for name in OVER_SEEDS}
    everything = figures_of(concatenate(list(pooled.values())))
    first = next(iter(reports.values()))
    # Over images, as the accuracy beside it: (accuracy, images) of each fold.
    optimistic = [
        (report["optimistic"]["accuracy"], len(predictions[key]))
        for key, report in reports.items()
        if "optimistic" in report
    ]
    report: dict[str, Any] = {
        "data": config.data,
        "preset": config.preset,
        "method": method_of(config),
        "sharing": config.model.sharing,
        "selection": config.selection,
        "folds": len({fold for _, fold in reports}),
        "fold_rule": config.fold_rule,
        "seeds": seeds,
        "known_subjects": first.get("known_subjects", True),
        **{name: over_seeds[name]["mean"] for name in OVER_SEEDS},
        "over_seeds": over_seeds,
        "over_subjects": subject_interval(*mean_correct(list(pooled.values()))),
        "optimistic": None
        if not optimistic
        else {"accuracy": fmean(*zip(*optimistic, strict=True)), "selected_on": "the test folds"},
        "seconds": sum(report["seconds"] for report in reports.values()),
        "parameters": first["parameters"],
        "per_class": everything["per_class"],
        "confusion": everything["confusion"],
        "images": everything["images"],
        "calibration": everything["calibration"],
        "per_seed": [{"seed": seed, **{name: by_seed[seed][name] for name in OVER_SEEDS}} for seed in seeds],
        "per_fold": [
            {"seed": seed, **entry, "macro_recall": report["macro_recall"], "seconds": report["seconds"]}
            for (seed, _), report in reports.items()
            for entry in report["per_fold"]
        ],
        "synthesis": read_by(config.judge, mean_of([report["synthesis"] for report in reports.values()])),
        "gates": mean_of([report["gates"] for report in reports.values()]) or [],
    }
    return Run(folder, config, report, predictions)


def read_by(judge: str | None, synthesis: dict[str, Any] | None) -> dict[str, Any] | None:
    """The means of all folds under the name of the ``judge`` that the whole run was given. Every fold has a
    fold of it for its own, and that of the first one has not read the others' faces."""
    if judge is None or synthesis is None:
        return synthesis
    sets, first = synthesis["sets"], synthesis["judge"]
    if sets is not None:
        sets = {**sets, "features": sets["features"].replace(first, judge)}
    return {**synthesis, "judge": judge, "sets": sets}


def mean_correct(parts: Sequence[Predictions]) -> tuple[list[float], list[str]]:
    """Of every image the share of seeds that recognised it, and its subject."""
    right: dict[str, list[float]] = {}
    subject: dict[str, str] = {}
    for part in parts:
        for source, who, correct in zip(part.source, part.subject, part.correct.tolist(), strict=True):
            right.setdefault(source, []).append(float(correct))
            subject[source] = who
    return [sum(found) / len(found) for found in right.values()], list(subject.values())


def mean_of(values: Sequence[Any]) -> Any:
    """The mean of nested figures of one shape, number by number, but of what COUNTED names the sum; what is
    no number comes from the first.

    None among numbers is left out; of nothing but None it is None.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    first = known[0]
    if isinstance(first, Mapping):
        columns = {
            key: [value.get(key) for value in known]
            for key in dict.fromkeys(key for value in known for key in value)
        }
        return {key: sum(found) if key in COUNTED else mean_of(found) for key, found in columns.items()}
    if isinstance(first, list):
        return [mean_of(list(column)) for column in zip(*known, strict=True)]
    if isinstance(first, (int, float)) and not isinstance(first, bool) and any(v != first for v in known):
        return sum(known) / len(known)
    return first
