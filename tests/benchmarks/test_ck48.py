"""What is kept of a cross-validation gives the figures and the paired tests of the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import ck48
from benchmarks.report import BEGIN, END
from fer_mtl.data.folds import make_folds
from fer_mtl.evaluation.paired import compare
from fer_mtl.evaluation.predictions import Predictions
from fer_mtl.evaluation.runs import Run
from fer_mtl.files import write_json
from fer_mtl.training.fold_folders import fold_folder
from fer_mtl.training.presets import preset_config

CLASSES = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
ENVIRONMENT = {"processor": "a processor", "versions": {"torch": "2.13.0"}, "commit": "0123456789abcdef"}


def a_run(folder: Path, answers: int, seed: int = 0, built_on: str | None = None, **model: object) -> Run:
    """Two folds of random answers."""
    random = torch.Generator().manual_seed(answers)
    config = preset_config(
        "ck48", data="ck48:some/where", folds=2, model=model, init=built_on, synthetic=built_on
    )
    predictions, per_fold = {}, []
    for fold in (0, 1):
        names = [f"{name}/S{fold}{i:02}_face.png" for i, name in enumerate(CLASSES * 3)]
        predictions[seed, fold] = Predictions(
            CLASSES,
            names,
            [f"S{fold}{i % 5}" for i in range(len(names))],
            torch.arange(7).repeat(3),
            torch.rand(len(names), 7, generator=random).double().softmax(1),
        )
        per_fold.append({"seed": seed, "fold": fold, "n_train": 21, "n_test": 21, "seconds": 1.0})
        fold_folder(folder, seed, fold).mkdir(parents=True)
        write_json(fold_folder(folder, seed, fold) / "environment.json", ENVIRONMENT)
    return Run(folder, config, {"per_fold": per_fold, "parameters": {"total": 5}}, predictions)


def test_what_is_kept_gives_the_runs_own_tests_without_its_names(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "a", 1, built_on="some/where"), a_run(tmp_path / "b", 2, sharing="nddr")]
    for run in runs:
        ck48.keep(run, run.folder.name, tmp_path / "kept")
    text = "".join(path.read_text() for path in (tmp_path / "kept").iterdir())
    assert "S00" not in text and "png" not in text and "some/where" not in text
    kept = ck48.load_all(tmp_path / "kept")
    assert [run.method for run in kept] == [run.method for run in runs]
    assert kept[0].config.synthetic == "where" and kept[1].config.synthetic is None
    ours, theirs = compare(*kept), compare(*runs)
    for found in ours, theirs:
        del found["first"], found["second"]
    assert ours == theirs
    for before, after in zip(runs, kept, strict=True):
        assert (
            ck48.figures_of(before.predictions[0, 1])["confusion"]
            == (ck48.figures_of(after.predictions[0, 1])["confusion"])
        )


def test_more_seeds_are_kept_beside_the_others_and_other_settings_are_refused(tmp_path: Path) -> None:
    first, second, again = (
        a_run(tmp_path / "a", 1),
        a_run(tmp_path / "b", 2, seed=3),
        a_run(tmp_path / "c", 4),
    )
    for run in (first, second, again):
        ck48.keep(run, "name", tmp_path)
    (kept,) = ck48.load_all(tmp_path)
    assert list(kept.predictions) == [(0, 0), (0, 1), (3, 0), (3, 1)]
    for run, seed in ((again, 0), (second, 3)):
        ours, theirs = (ck48.figures_of(found.predictions[seed, 1])["confusion"] for found in (kept, run))
        assert ours == theirs
    assert list(kept.report["environments"]) == ["0", "3"] and len(kept.report["per_fold"]) == 4
    with pytest.raises(ValueError, match="kept with other settings: model"):
        ck48.keep(a_run(tmp_path / "d", 1, seed=5, sharing="nddr"), "name", tmp_path)


def test_what_every_run_misses_is_counted_by_what_it_was_taken_for(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "a", 1, built_on="some/where"), a_run(tmp_path / "b", 2, sharing="nddr")]
    answers = [{key: found.predicted for key, found in run.predictions.items()} for run in runs]
    label = runs[0].predictions[0, 0].label
    both = [
        (one != label) & (two != label)
        for one, two in zip(answers[0].values(), answers[1].values(), strict=True)
    ]
    *rows, last = ck48.missed_by_all(runs).rows
    assert int(last[2]) == sum(int(wrong.sum()) for wrong in both) == sum(int(row[2]) for row in rows)
    alike = [
        wrong & (one == two)
        for wrong, one, two in zip(both, answers[0].values(), answers[1].values(), strict=True)
    ]
    told = sum(int(row[2]) for row in rows if row[1] != "different ones")
    assert 0 < told == sum(int(wrong.sum()) for wrong in alike) < int(last[2])


def test_the_page_says_what_the_kept_files_say() -> None:
    kept = ck48.load_all(ck48.KEPT)
    assert kept, f"nothing is kept in {ck48.KEPT}"
    shown = ck48.PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == ck48.page(kept), "run python -m benchmarks.ck48"


def test_the_kept_folds_are_those_that_the_rule_makes() -> None:
    """Else what is measured now would stand beside figures of other folds."""
    kept = {run.folder.name: run for run in ck48.load_all(ck48.KEPT)}["fersnet"]
    images = [
        (int(image), int(person), int(label), fold)
        for (seed, fold), found in kept.predictions.items()
        for image, person, label in zip(found.source, found.subject, found.label, strict=True)
        if seed == 0
    ]
    _, people, labels, tested = zip(*sorted(images), strict=True)
    for fold in make_folds(labels, [f"{person:03}" for person in people], kept.config.folds):
        assert {tested[i] for i in fold.test.tolist()} == {fold.index}


def test_an_unfinished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ck48.main(["keep", str(tmp_path), "name"])
    assert "holds no finished run" in capsys.readouterr().err
