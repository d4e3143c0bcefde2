"""What cross-validations on CK+48 said of every image, kept beyond their run folders, and tables made of it.

    python -m benchmarks.ck48 keep runs/fersnet fersnet   # docs/ck48/fersnet.csv and .json
    python -m benchmarks.ck48                             # write the tables into docs/ck48.md

Images and people are numbered in the order of their names: neither a picture nor a name of CK+ is kept.
Figures and paired tests are those of ``fer-mtl report``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import one_hot

from benchmarks.report import folded, write_between_markers
from benchmarks.tables import Table
from fer_mtl.evaluation.evaluate import figures_of
from fer_mtl.evaluation.paired import comparable, compare
from fer_mtl.evaluation.predictions import Predictions, concatenate
from fer_mtl.evaluation.report import number, percent
from fer_mtl.evaluation.runs import Run, load_run
from fer_mtl.files import write_json, write_text
from fer_mtl.training.config import BUILT_ON, TrainConfig, from_dict, to_dict
from fer_mtl.training.fold_folders import fold_folder
from fer_mtl.training.run_folder import RunFolder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ck48.md"
KEPT = PAGE.with_suffix("")
COLUMNS = ("seed", "fold", "image", "person", "label", "predicted")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ck48", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    kept = commands.add_parser("keep", help="keep what a finished cross-validation said")
    kept.add_argument("run", type=Path)
    kept.add_argument("name", help="of the files in docs/ck48")
    options = parser.parse_args(arguments)
    if options.command == "keep":
        try:
            keep(load_run(options.run), options.name, KEPT)
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))
    write_between_markers(PAGE, page(load_all(KEPT)))
    return 0


def keep(run: Run, name: str, folder: Path) -> None:
    """Write ``folder/name.csv``, a line for every tested image, and ``folder/name.json``: settings, how many
    images each fold trained and tested on, and for each seed the machine, versions and commit.

    What is kept under this name already is kept on, except for the run's own seeds. Raises ValueError if
    its settings or images were others.
    """
    numbers = [
        {text: number for number, text in enumerate(sorted(texts))}
        for texts in (
            {source for found in run.predictions.values() for source in found.source},
            {subject for found in run.predictions.values() for subject in found.subject},
        )
    ]
    rows = []
    for (seed, fold), found in run.predictions.items():
        columns = (found.source, found.subject, found.label.tolist(), found.predicted.tolist())
        for source, subject, label, said in sorted(zip(*columns, strict=True)):
            names = (found.classes[label], found.classes[said])
            rows.append((seed, fold, numbers[0][source], numbers[1][subject], *names))
    environments = {
        str(seed): RunFolder(fold_folder(run.folder, seed, fold)).read_environment()
        for seed, fold in reversed(run.predictions)
    }
    names_alone = {
        name: Path(value).name for name in BUILT_ON if (value := getattr(run.config, name)) is not None
    }
    content = {
        "config": to_dict(replace(run.config, data=run.data, **names_alone)),
        "environments": environments,
        "parameters": run.report["parameters"]["total"],
        "per_fold": [
            {key: entry[key] for key in ("seed", "fold", "n_train", "n_test")}
            for entry in run.report["per_fold"]
        ],
    }
    if (folder / f"{name}.json").exists():
        rows = add_to_kept(folder / f"{name}.json", content, rows)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.csv", table.getvalue())
    write_json(folder / f"{name}.json", content)


def add_to_kept(path: Path, content: dict[str, Any], rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows and, put into ``content``, the facts of the other seeds that are kept under this name."""
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        key
        for key, value in content["config"].items()
        if key not in ("seed", "threads") and value != before["config"].get(key)
    ]
    if changed:
        raise ValueError(f"{path.stem} was kept with other settings: {', '.join(changed)}")
    new = set(content["environments"])
    with open(path.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        kept = [tuple(row.values()) for row in csv.DictReader(file)]
    what = [{tuple(map(str, row[2:5])) for row in some} for some in (kept, rows)]
    if what[0] != what[1]:
        raise ValueError(f"{path.stem} was kept of other images")
    content["config"]["seed"] = before["config"]["seed"]
    content["environments"] = {**before["environments"], **content["environments"]}
    others = [entry for entry in before["per_fold"] if str(entry["seed"]) not in new]
    content["per_fold"] = [*others, *content["per_fold"]]
    both = [row for row in kept if row[0] not in new] + rows
    return sorted(both, key=lambda row: tuple(int(number) for number in row[:3]))


def load_all(folder: Path) -> list[Run]:
    """Every kept run, as ``fer-mtl report`` would load it; of the probabilities only the largest is known."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def load(path: Path) -> Run:
    content = json.loads(path.read_text(encoding="utf-8"))
    with open(path.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = tuple(sorted({row[name] for row in rows for name in ("label", "predicted")}))
    predictions = {}
    for key in dict.fromkeys((int(row["seed"]), int(row["fold"])) for row in rows):
        own = [row for row in rows if (int(row["seed"]), int(row["fold"])) == key]
        label, said = (
            torch.tensor([classes.index(row[name]) for row in own]) for name in ("label", "predicted")
        )
        predictions[key] = Predictions(
            classes,
            [row["image"] for row in own],
            [row["person"] for row in own],
            label,
            one_hot(said, len(classes)).double(),
        )
    return Run(path.with_suffix(""), from_dict(TrainConfig, content["config"]), content, predictions)


def page(runs: Sequence[Run]) -> str:
    shown = [table.markdown() for table in (results(runs), missed_by_all(runs))]
    return "\n\n".join([*shown, folded(differences(runs)), folded(origins(runs))])


def results(runs: Sequence[Run]) -> Table:
    table = Table(
        "Recognition",
        ("kept as", "method", "folds x seeds", "accuracy", "recall", "contempt", "fear", "wrong"),
        note="Mean recall of the seven expressions, and that of two rare ones; images taken for another.",
    )
    for run in runs:
        seeds = list(dict.fromkeys(seed for seed, _ in run.predictions))
        figures = figures_of(concatenate(list(run.predictions.values())))
        wrong = sum(int((~found.correct).sum()) for found in run.predictions.values())
        table.rows.append(
            (
                run.folder.name,
                run.method,
                f"{len(run.predictions) // len(seeds)} x {len(seeds)}",
                percent(figures["accuracy"]),
                percent(figures["macro_recall"]),
                percent(figures["per_class"]["contempt"]["recall"]),
                percent(figures["per_class"]["fear"]["recall"]),
                f"{wrong} of {figures['images']}",
            )
        )
    return table


def differences(runs: Sequence[Run]) -> Table:
    table = Table(
        "Pairs on the same images",
        ("first", "second", "difference in points", "right only by first : second", "p, people", "p, folds"),
        note="Sign flips over people, and a t test over folds corrected for shared training images.",
    )
    for first, second in combinations(runs, 2):
        if not comparable(first, second):
            continue
        found = compare(first, second)
        only = [
            sum(seed[side] for seed in found["mcnemar"].values()) for side in ("only_first", "only_second")
        ]
        table.rows.append(
            (
                first.folder.name,
                second.folder.name,
                f"{100 * found['subjects']['mean']:+.2f}",
                f"{only[0]} : {only[1]}",
                number(found["subjects"]["p"]),
                number(found["folds"]["p"]),
            )
        )
    return table


def missed_by_all(runs: Sequence[Run]) -> Table:
    """What no run with any seed takes for what it is, among the runs that share most images."""
    groups = [[run for run in runs if comparable(run, other)] for other in runs]
    group = max(groups, key=len)
    answers = [found for run in group for found in by_seed(run)]
    said = [dict(zip(found.source, found.predicted.tolist(), strict=True)) for found in answers]
    first = answers[0]
    missed: dict[tuple[str, str], list[str]] = defaultdict(list)
    for image, person, label in zip(first.source, first.subject, first.label.tolist(), strict=True):
        taken_for = {predicted[image] for predicted in said}
        if label not in taken_for:
            what = first.classes[taken_for.pop()] if len(taken_for) == 1 else "different ones"
            missed[first.classes[label], what].append(person)
    table = Table(
        f"Missed by every run of {', '.join(run.folder.name for run in group)}",
        ("expression", "taken for", "images", "people"),
        note="The more of its errors a run shares with all others, the less another way to share would mend.",
    )
    for (label, taken_for), people in sorted(missed.items()):
        table.rows.append((label, taken_for, str(len(people)), str(len(set(people)))))
    everyone = [person for people in missed.values() for person in people]
    table.rows.append(("all", "", str(len(everyone)), str(len(set(everyone)))))
    return table


def by_seed(run: Run) -> list[Predictions]:
    """For every seed the answers to the images of all folds."""
    return [
        concatenate([found for key, found in run.predictions.items() if key[0] == seed])
        for seed in dict.fromkeys(seed for seed, _ in run.predictions)
    ]


def origins(runs: Sequence[Run]) -> Table:
    table = Table("Where they come from", ("kept as", "seed", "epochs", "processor", "torch", "commit"))
    for run in runs:
        for seed, ran_on in run.report["environments"].items():
            table.rows.append(
                (
                    run.folder.name,
                    seed,
                    str(run.config.epochs),
                    ran_on["processor"],
                    ran_on["versions"]["torch"],
                    (ran_on["commit"] or "unknown")[:10],
                )
            )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
