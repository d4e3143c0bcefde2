from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.evaluation.comparison import write_comparison
from fer_mtl.evaluation.predictions import read_csv
from fer_mtl.evaluation.runs import load_run
from fer_mtl.training.balance import open_source
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.interrupt import Interrupted
from fer_mtl.training.run import describe_plan, fold_name, load_faces, train_run
from fer_mtl.training.split import make_split
from fer_mtl.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def rafdb(tmp_path: Path, faces: FaceSet) -> str:
    """Drawn faces laid out as RAF-DB: 28 to train and 28 to test, all seven codes in both."""
    lines = []
    for i in range(56):
        name = f"{'train' if i < 28 else 'test'}_{i:05d}"
        path = tmp_path / "Image" / "aligned" / f"{name}_aligned.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images[i].permute(1, 2, 0).numpy()).save(path)
        lines.append(f"{name}.jpg {i % 7 + 1}\n")
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return f"rafdb:{tmp_path}"


def test_true_pictures_of_a_person_need_to_be_known(tiny: Tiny, rafdb: str) -> None:
    with pytest.raises(ValueError, match=r"loss\.identity must be 0 for rafdb, got 1: it does not tell"):
        load_faces(tiny(data=rafdb))


def test_synthesis_without_knowing_who_is_who(tiny: Tiny, rafdb: str, tmp_path: Path) -> None:
    config = tiny(data=rafdb, fold_rule="official", epochs=1, loss={"identity": 0.0})
    report = train_run(config, tmp_path / "run")
    figures = report["synthesis"]
    assert figures["identity"] is None and figures["pairs"] == 0
    assert 0 <= figures["expression_accuracy"] <= 1
    with pytest.raises(ValueError, match="no synthesis branch with an identity network"):
        open_source(tmp_path / "run", None, load_faces(config).classes)


def test_recognition_on_an_official_split(
    tiny: Tiny, rafdb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(data=rafdb, fold_rule="official", epochs=1, model={"synthesis": False, "sharing": "none"})
    report = train_run(config, tmp_path / "run", console=Console())
    assert report["per_fold"][0]["n_train"] == report["per_fold"][0]["n_test"] == 28
    assert report["split"]["test"][0] == "test_00028_aligned.jpg"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "official split" in page
    # Of people the set does not know nothing is claimed.
    assert "accuracy on unseen images" in page and "No tested image was trained on" in page
    assert "unseen people" not in page
    said = capsys.readouterr().out
    assert "accuracy on 28 unseen images" in said and "of 28 subjects" not in said
    assert report["known_subjects"] is False
    write_comparison([load_run(tmp_path / "run")], tmp_path / "alone")
    compared = (tmp_path / "alone" / "report.md").read_text()
    assert "95 % over images" in compared
    for claim in ("Subject-independent", "over subjects", "saw no image of that person", "_aligned.jpg"):
        assert claim not in compared


def test_folds_are_named(tiny: Tiny) -> None:
    assert fold_name(tiny(fold=2)) == "fold 2 of 4 (stratified)"
    assert fold_name(tiny(fold=None)) == "no test fold"
    assert fold_name(tiny(fold_rule="official")) == "official split"


def test_the_report_agrees_with_the_predictions(trained_run: Path) -> None:
    report = json.loads((trained_run / "report.json").read_text())
    predictions = read_csv(trained_run / "predictions.csv")
    assert report["accuracy"] == pytest.approx(float(predictions.correct.double().mean()))
    assert sorted(set(predictions.subject)) == report["split"]["test"]
    assert report["synthesis"]["identity"]["network"] == "IdentityEncoder"
    assert {line["level"] for line in report["gates"]} == {1, 2, 3}
    page = (trained_run / "report.html").read_text()
    for title in ("Between expressions", "Calibration", "above 1/2"):
        assert title in page


def test_the_optimistic_figure_is_labelled_and_decides_nothing(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = iter([0.5, 0.9, 0.7])
    monkeypatch.setattr(Trainer, "figures", lambda self, found: {"accuracy": next(watched)})
    alone = {"sharing": "none", "synthesis": False}
    reports = [
        train_run(tiny(model=alone, epochs=3, optimistic=flag), tmp_path / str(flag), faces=faces)
        for flag in (False, True)
    ]
    assert "optimistic" not in reports[0]
    assert reports[0]["confusion"] == reports[1]["confusion"] and reports[1]["epoch"] == 3
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert reports[1]["optimistic"] == {"epoch": 2, "selected_on": "the test fold", "accuracy": 0.9}


def test_a_run_does_not_go_on_with_other_people(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    """One more in the folder makes other folds, and who has been trained on would be tested."""
    config = tiny(epochs=1, model={"synthesis": False, "sharing": "none"})
    fewer = faces.subset([i for i, subject in enumerate(faces.subjects) if subject != faces.subjects[0]])

    def stop(trainer: Trainer) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train_run(config, tmp_path / "run", faces=fewer, on_step=stop)
    with pytest.raises(
        ValueError, match=r"trained with other subjects in .*: the data, .* has changed since"
    ):
        train_run(config, tmp_path / "run", faces=faces, resume=True)
    assert train_run(config, tmp_path / "run", faces=fewer, resume=True)["epoch"] == 1


def test_a_run_stopped_before_its_first_checkpoint_goes_on(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(epochs=1)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as stopping,
        pytest.raises(Interrupted, match="before the first step; continue"),
    ):
        stopping.setattr("fer_mtl.training.trainer.train_identity", stop)
        train_run(config, tmp_path / "run", faces=faces)
    with monkeypatch.context() as stopping, pytest.raises(Interrupted, match="before the report; continue"):
        stopping.setattr("fer_mtl.training.run.evaluate", stop)
        train_run(config, tmp_path / "run", faces=faces, resume=True)
    report = train_run(config, tmp_path / "run", faces=faces, resume=True)
    straight = train_run(config, tmp_path / "straight", faces=faces)
    assert report["calibration"] == straight["calibration"]
    # Of a finished run that was robbed of its checkpoint nothing is begun anew.
    (tmp_path / "run" / "last.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*last.pt"):
        train_run(config, tmp_path / "run", faces=faces, resume=True)
    assert (tmp_path / "run" / "best.pt").is_file()


def test_two_processes_do_not_train_in_one_folder(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(epochs=1, model={"synthesis": False, "sharing": "none"})

    def twice(_: Trainer) -> None:
        with pytest.raises(BlockingIOError, match=r"another process is at work in .*run; wait for it"):
            train_run(config, tmp_path / "run", faces=faces, overwrite=True)

    assert train_run(config, tmp_path / "run", faces=faces, on_step=twice)["epoch"] == 1


def test_a_class_that_cannot_be_learnt_is_named(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {"sharing": "none", "synthesis": False}
    contempt = faces.classes.index("contempt")
    # The first two subjects alone show contempt, and by the sorted rule they are the first fold.
    kept = [i for i, s in enumerate(faces.subjects) if s < "P0002" or faces.labels[i] != contempt]
    config = tiny(epochs=1, model=alone, fold_rule="sorted")
    report = train_run(config, tmp_path, faces=faces.subset(kept), console=Console())
    assert "warning: no training image of contempt" in capsys.readouterr().out
    assert report["per_class"]["contempt"] == {"recall": 0.0, "images": 2}


def test_the_plan_says_what_it_builds_on(faces: FaceSet, tiny: Tiny) -> None:
    config = tiny(init="runs/other", synthetic="made", mix=0.25)
    text = describe_plan(config, faces, make_split(config, faces))
    assert "2 epochs of 4 steps of 14" in text  # 42 real images are three quarters of 56
    assert "25% synthetic from made" in text and "from runs/other but for decoder, style" in text
