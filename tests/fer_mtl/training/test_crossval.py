from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fer_mtl.training.crossval as crossval
import fer_mtl.training.run_folder as run_folder
from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.crossval import Job, fold_config, run_crossval
from fer_mtl.training.interrupt import Interrupted
from fer_mtl.training.run import train_run
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.synthetic import FIELDS
from fer_mtl.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def quick(tiny: Tiny) -> TrainConfig:
    """Recognition alone, one epoch, two folds: a second a fold."""
    return tiny(folds=2, epochs=1, model={"sharing": "none", "synthesis": False})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folds that were really trained."""
    names: list[str] = []
    original = crossval.train_fold

    def watch(job: Job, faces: FaceSet, console: Console | None = None) -> dict:
        names.append(job.name)
        return original(job, faces, console)

    monkeypatch.setattr(crossval, "train_fold", watch)
    return names


def test_every_fold_and_seed_is_trained_once(
    quick: TrainConfig,
    faces: FaceSet,
    tmp_path: Path,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "run"
    report = run_crossval(quick, root, (0,), faces=faces)
    assert trained == ["seed 0, fold 0", "seed 0, fold 1"]
    assert report == json.loads((root / "report.json").read_text())
    tested = [name for entry in report["per_fold"] for name in entry["test_subjects"]]
    assert sorted(tested) == sorted(set(faces.subjects))
    stored = json.loads((root / "folds.json").read_text())
    assert [fold["test_subjects"] for fold in stored["folds"]] == [
        entry["test_subjects"] for entry in report["per_fold"]
    ]
    assert (root / "seed-0" / "fold-1" / "report.html").is_file() and (root / "report.html").is_file()
    # The same command trains nothing, one with another seed only that seed.
    again = run_crossval(quick, root, (0,), faces=faces)
    assert again == report and len(trained) == 2
    more = run_crossval(quick, root, (3,), faces=faces)
    assert trained[2:] == ["seed 3, fold 0", "seed 3, fold 1"]
    assert more["seeds"] == [0, 3] and more["over_seeds"]["accuracy"]["n"] == 2
    # Other settings are another cross-validation, unless the old one is to be replaced.
    with pytest.raises(ValueError, match=r"begun with other settings: epochs was 1, now 2.*--overwrite"):
        run_crossval(crossval.replace(quick, epochs=2), root, (0,), faces=faces)
    (root / "seed-3" / "notes.txt").write_text("of the user")
    stale: list[bool] = []
    monkeypatch.setattr(Trainer, "prepare", lambda *_: stale.append((root / "report.json").exists()))
    run_crossval(quick, root, (0,), faces=faces, overwrite=True)
    assert trained[4:] == ["seed 0, fold 0", "seed 0, fold 1"]
    assert stale == [False, False]  # a run that stops early must not leave the old results
    assert [path.name for path in (root / "seed-3").iterdir()] == ["notes.txt"]


def test_a_stopped_fold_goes_on(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, steps, stop = crossval.replace(quick, epochs=2), 0, True
    original = Trainer.step

    def stop_in_fold_1(self: Trainer, indices: object) -> None:
        nonlocal steps
        original(self, indices)  # type: ignore[arg-type]
        if self.config.fold == 1:
            steps += 1
            if steps == 3 and stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stop_in_fold_1)
    with pytest.raises(Interrupted, match="stopped with 1 of 2 folds finished; the same command"):
        run_crossval(config, tmp_path / "stopped", faces=faces)
    assert RunFolder(tmp_path / "stopped" / "seed-0" / "fold-1").last.is_file()
    stop = False
    # As one run it would be another one: on all subjects, in the middle of the folds.
    whole = RunFolder(tmp_path / "stopped")
    for how in ("resume", "overwrite"):
        with pytest.raises(ValueError, match="stopped holds a cross-validation: fer-mtl crossval goes on"):
            train_run(whole.read_config(), whole.root, faces=faces, **{how: True})
    # With as many threads as before, but by another setting, and on the same device by another name.
    elsewhere = crossval.replace(config, threads=torch.get_num_threads(), device="cpu")
    resumed = run_crossval(elsewhere, tmp_path / "stopped", faces=faces)
    assert steps < 3 + 2 * 2  # not from the start: two epochs of two steps
    straight = run_crossval(config, tmp_path / "straight", faces=faces)
    assert resumed["confusion"] == straight["confusion"]
    assert resumed["calibration"] == straight["calibration"]


def test_who_replaced_an_old_one_is_not_told_to_do_it_again(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command would remove the folds that are finished by then."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(Interrupted, match="the same command without --overwrite continues"):
        run_crossval(quick, tmp_path, faces=faces, overwrite=True)


@pytest.mark.slow
def test_a_worker_that_fails_stops_the_others(quick: TrainConfig, faces: FaceSet, tmp_path: Path) -> None:
    """They would train to the end before anything is said of it; their step is kept."""
    long = crossval.replace(quick, epochs=10_000, threads=1)
    (tmp_path / "seed-0" / "fold-1").mkdir(parents=True)
    (tmp_path / "seed-0" / "fold-1" / "last.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"seed 0, fold 1: .*last.pt is not a readable checkpoint"):
        run_crossval(long, tmp_path, workers=2, faces=faces)


@pytest.mark.slow
def test_folds_side_by_side_give_the_same_figures(quick: TrainConfig, faces: FaceSet, tmp_path: Path) -> None:
    config = crossval.replace(quick, threads=1)
    together = run_crossval(config, tmp_path / "together", workers=2, faces=faces)
    alone = run_crossval(config, tmp_path / "alone", faces=faces)
    assert together["confusion"] == alone["confusion"] and together["calibration"] == alone["calibration"]


def test_a_missing_class_is_named(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_one_afraid = faces.subset(
        [
            i
            for i, s in enumerate(faces.subjects)
            if s == "P0000" or faces.labels[i] != faces.classes.index("fear")
        ]
    )
    report = run_crossval(quick, tmp_path, faces=only_one_afraid, console=Console())
    said = capsys.readouterr().out
    assert "leaves no training image of fear" in said
    assert report["per_class"]["fear"] == {"recall": 0.0, "images": 1}


def test_changed_data_and_bad_seeds_are_refused(quick: TrainConfig, faces: FaceSet, tmp_path: Path) -> None:
    run_crossval(quick, tmp_path / "run", faces=faces)
    with pytest.raises(ValueError, match="lists other folds: the data, or what makes the folds, has changed"):
        run_crossval(quick, tmp_path / "run", faces=faces.subset(range(49)))
    for seeds in ((), (1, 1)):
        with pytest.raises(ValueError, match="seeds must be one or more distinct numbers"):
            run_crossval(quick, tmp_path / "new", seeds, faces=faces)
    with pytest.raises(ValueError, match="9 folds need at least 9 subjects, got 8"):
        run_crossval(crossval.replace(quick, folds=9), tmp_path / "new", faces=faces)
    assert not (tmp_path / "new").exists()


def test_a_start_that_came_to_nothing_binds_nobody(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path
) -> None:
    """The corrected command was refused for a difference to the settings that had been refused."""
    with pytest.raises(ValueError, match="batch_size must be at most the 28 training images, got 29"):
        run_crossval(crossval.replace(quick, batch_size=29), tmp_path, (0, 1), faces=faces)
    report = run_crossval(quick, tmp_path, (2,), faces=faces)
    assert report["seeds"] == [2]
    assert json.loads((tmp_path / "folds.json").read_text())["seeds"] == [2]


def test_other_expressions_are_refused_before_a_fold_is_trained(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, trained: list[str]
) -> None:
    run_crossval(quick, tmp_path, faces=faces)
    begun = len(trained)
    others = crossval.replace(faces, classes=(*faces.classes[1:], "neutral"))
    with pytest.raises(
        ValueError, match=r"fold-0 was trained on anger, .*, not contempt, .*, neutral: the data"
    ):
        run_crossval(quick, tmp_path, (0, 1), faces=others)
    assert len(trained) == begun


def test_runs_that_are_built_on_are_those_of_the_same_fold(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "seed-0" / "fold-2").mkdir(parents=True)
    config = fold_config(tiny(init=str(tmp_path), judge="some/run"), 5, 2)
    assert (config.init, config.judge) == (str(tmp_path / "seed-0" / "fold-2"), "some/run")
    assert (config.seed, config.fold) == (5, 2)


def test_a_fold_without_synthetic_faces_is_known_before_any_is_trained(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, trained: list[str]
) -> None:
    for fold, line in enumerate((json.dumps(dict.fromkeys(FIELDS)), "")):
        manifest = tmp_path / "faces" / "seed-0" / f"fold-{fold}" / "manifest.jsonl"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(line)
    config = crossval.replace(quick, synthetic=str(tmp_path / "faces"))
    with pytest.raises(ValueError, match=r"fold-1/manifest\.jsonl lists no face"):
        run_crossval(config, tmp_path / "run", faces=faces)
    assert not trained


def test_a_broken_file_of_a_fold_is_named(quick: TrainConfig, faces: FaceSet, tmp_path: Path) -> None:
    run_crossval(quick, tmp_path, faces=faces)
    run = RunFolder(tmp_path / "seed-0" / "fold-1")
    files = (run.report, run.predictions, run.environment)
    before = {file: file.read_bytes() for file in files}
    for broken, missing, message in (
        (run.report, None, r"fold-1/report\.json is not JSON: "),
        (run.predictions, None, r"fold-1/predictions\.csv is not a table of predictions: "),
        (run.environment, run.report, r"seed 0, fold 1: .*fold-1/environment\.json is not JSON: "),
    ):
        broken.write_bytes(before[broken][: len(before[broken]) // 2])
        if missing is not None:
            missing.unlink()
        with pytest.raises(ValueError, match=message):
            run_crossval(quick, tmp_path, faces=faces)
        for file, content in before.items():
            file.write_bytes(content)
    run.predictions.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"or they were removed: fer-mtl train --resume .*fold-1 makes"
    ):
        run_crossval(quick, tmp_path, faces=faces)
    train_run(run.read_config(), run.root, faces=faces, resume=True)
    assert run.predictions.read_bytes() == before[run.predictions]


def test_an_error_says_in_which_fold(quick: TrainConfig, faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed 0, fold 0: batch_size must be at most the 28 training images"):
        run_crossval(crossval.replace(quick, batch_size=50), tmp_path, faces=faces)


def test_a_disk_that_is_full_at_the_beginning_is_no_run(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was taken for that of a single run, which --resume was said to go on with."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write_json", "write_text"):  # the first file, the second one
        with monkeypatch.context() as patch:
            patch.setattr(crossval if name == "write_json" else run_folder, name, full)
            with pytest.raises(OSError, match="No space left"):
                run_crossval(quick, tmp_path, faces=faces)
    assert len(run_crossval(quick, tmp_path, faces=faces)["per_fold"]) == 2


def test_images_that_workers_have_no_room_to_share_are_said(
    quick: TrainConfig, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(OSError, match=r"share the images, 0.2 MB, in /dev/shm.*--workers 1 needs none"):
        run_crossval(quick, tmp_path, workers=2, faces=faces)
