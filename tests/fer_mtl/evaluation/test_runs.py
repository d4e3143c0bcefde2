from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.runs import load_run, mean_of
from fer_mtl.training.config import TrainConfig

Tiny, MakeUp = Callable[..., TrainConfig], Callable[..., Path]


def test_folds_are_pooled_and_seeds_averaged(faces: FaceSet, tiny: Tiny, made_up: MakeUp) -> None:
    wrong = {faces.sources[0], faces.sources[1], faces.sources[20]}
    run = load_run(made_up("run", tiny(), (0, 1), wrong))
    report = run.report
    assert report["accuracy"] == pytest.approx(53 / 56) == report["over_seeds"]["accuracy"]["mean"]
    assert report["over_seeds"]["accuracy"]["deviation"] == 0
    assert report["images"] == 112 and report["seeds"] == [0, 1] and report["folds"] == 4
    assert sum(map(sum, report["confusion"])) == 112
    assert len(report["per_fold"]) == 8 and report["seconds"] == 8 * 60
    assert {"accuracy", "n_train", "n_test", "test_subjects"} <= set(report["per_fold"][0])
    for key in ("macro_f1", "macro_recall", "selection", "preset", "calibration"):
        assert report[key] is not None
    assert report["over_subjects"]["low"] < 53 / 56 <= report["over_subjects"]["high"]
    assert report["synthesis"]["expression_accuracy"] == 0.5 and report["gates"][0]["level"] == 1


def test_the_optimistic_accuracy_is_over_images(faces: FaceSet, tiny: Tiny, made_up: MakeUp) -> None:
    """As the accuracy that it flatters: were the same epochs chosen, both would be the same."""
    root = made_up("run", tiny(folds=3), wrong=set(faces.sources[:9]))
    for file in root.glob("seed-*/fold-*/report.json"):
        report = json.loads(file.read_text())
        report["optimistic"] = {"accuracy": report["accuracy"]}
        file.write_text(json.dumps(report))
    report = load_run(root).report
    assert len({entry["n_test"] for entry in report["per_fold"]}) > 1
    assert report["optimistic"]["accuracy"] == pytest.approx(report["accuracy"], abs=1e-12)


def test_an_unfinished_seed_is_left_out_and_no_finished_one_refused(tiny: Tiny, made_up: MakeUp) -> None:
    root = made_up("run", tiny(), (0, 1))
    (root / "seed-1" / "fold-2" / "report.json").unlink()
    assert load_run(root).report["seeds"] == [0]
    shutil.rmtree(root / "seed-0" / "fold-0")
    with pytest.raises(ValueError, match="is not finished: 6 of 8 folds are"):
        load_run(root)


def test_a_single_fold_is_a_run_too(trained_run: Path, tmp_path: Path) -> None:
    run = load_run(trained_run)
    assert run.report["folds"] == 1 and run.method == "FERSNet (ConvFLU)"
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        load_run(tmp_path)


def test_the_means_of_the_folds_have_the_judge_of_the_whole_run(tiny: Tiny, made_up: MakeUp) -> None:
    """Each fold's faces are read by the same fold of the judge."""
    root = made_up("run", tiny(judge="runs/judge"))
    for file in root.glob("seed-*/fold-*/report.json"):
        report, name = json.loads(file.read_text()), f"runs/judge/{file.parent.relative_to(root)}"
        report["synthesis"]["judge"] = name
        report["synthesis"]["sets"] = {"features": f"features (64) of {name}", "frechet": 2.0}
        file.write_text(json.dumps(report))
    synthesis = load_run(root).report["synthesis"]
    assert synthesis["judge"] == "runs/judge"
    assert synthesis["sets"] == {"features": "features (64) of runs/judge", "frechet": 2.0}
    assert load_run(made_up("other", tiny())).report["synthesis"]["judge"] == "a judge"


def test_means_of_nested_figures() -> None:
    found = mean_of([{"a": 1, "b": [0.0, 2.0], "c": "x"}, {"a": None, "b": [1.0, 2.0], "c": "y"}, None])
    assert found == {"a": 1, "b": [0.5, 2.0], "c": "x"}
    assert mean_of([None, None]) is None


def test_faces_are_counted_in_all_folds() -> None:
    """Of a rare expression not every fold has one: its mean, rounded, said that of none a share was read."""
    folds = [{"sources": n, "pairs": 2 * n, "expression_accuracy": 0.5 if n else None} for n in (0, 1, 0)]
    assert mean_of(folds) == {"sources": 1, "pairs": 2, "expression_accuracy": 0.5}
    assert mean_of(folds[:1] * 3) == {"sources": 0, "pairs": 0, "expression_accuracy": None}
    assert mean_of(folds[1:2] * 3)["sources"] == 3  # also where all folds are alike
