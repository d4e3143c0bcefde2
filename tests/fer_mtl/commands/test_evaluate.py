from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from PIL import Image

from fer_mtl.cli import main
from fer_mtl.commands.evaluate import faces_to_test, match_classes, unseen
from fer_mtl.data import FaceSet
from fer_mtl.evaluation.evaluate import evaluate
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.training.checkpoints import load_model


def test_the_held_out_fold_is_what_the_training_tested(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(trained_run), "--out", str(out)]) == 0
    tested, again = (json.loads((folder / "report.json").read_text()) for folder in (trained_run, out))
    for name in ("accuracy", "macro_f1", "confusion", "images"):
        assert again[name] == tested[name]
    said = capsys.readouterr().out
    assert f"({tested['images']} images)" in said and "report: " in said
    assert main(["evaluate", str(trained_run), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "already holds a run" in error and "--resume" not in error and "--overwrite" not in error


def test_other_data_leaves_out_who_was_trained_on(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The drawn people of another seed are others; those of its own data were seen but for the test fold."""
    for data, images in (("", 14), (",seed=1", 56)):
        spec = f"procedural:num_subjects=8,images_per_expression=1{data}"
        assert main(["evaluate", str(trained_run), "--data", spec]) == 0
        said = capsys.readouterr().out
        assert f"({images} images)" in said
        assert ("42 images of subjects the model was trained on left out" in said) == (images == 14)
    assert main(["evaluate", str(trained_run), "--data", "nowhere:x"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_expressions": 6}, "judge must read anger"),
        ({"image_size": 64}, "judge must have model.image_size"),
    ],
)
def test_a_judge_must_fit(
    trained_run: Path,
    faces: FaceSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict,
    message: str,
) -> None:
    """Also one that was exported."""
    config = {"num_expressions": 7, "image_size": 32, "width": 0.125, **changes}
    names = list(faces.classes[: config["num_expressions"]])
    FERSNet(**config).save_pretrained(tmp_path / "judge", {"expressions": names})
    assert main(["evaluate", str(trained_run), "--judge", str(tmp_path / "judge")]) == 2
    assert message in capsys.readouterr().err


def test_the_same_people_under_another_name_are_left_out(trained_run: Path, faces: FaceSet) -> None:
    trained = load_model(trained_run)
    known = trained.origin["split"]["train"]
    trained.origin |= {"config": {"data": "jaffe:x"}, "seen": {"cohn-kanade": known}}  # seen at its start
    assert set(unseen(faces, trained, "ck48:y").subjects) == set(faces.subjects) - set(known)
    assert len(unseen(faces, trained, "jaffe:y")) == len(faces)


def test_of_a_model_folder_nobody_can_tell(
    trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    assert main(["export", str(trained_run), "--out", str(model)]) == 0
    spec = "procedural:num_subjects=2,images_per_expression=1"
    out = tmp_path / "out"
    assert main(["evaluate", str(model), "--data", spec, "--out", str(out)]) == 0
    assert f"{model} does not say whom it was trained on" in caplog.text
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "does not say whom it was trained on" in page
    for claim in ("unseen people", "None of them was trained on", "No image of a tested person"):
        assert claim not in page


def test_options_of_the_data(
    trained_run: Path, faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures as <expression>/* are read as in training, by the pattern of their names."""
    (tmp_path / "photos" / "fear").mkdir(parents=True)
    Image.fromarray(faces.images[3].permute(1, 2, 0).numpy()).save(tmp_path / "photos" / "fear" / "ann_1.png")
    arguments = ["evaluate", str(trained_run), "--data", f"folder:{tmp_path / 'photos'}"]
    assert main(arguments) == 2
    assert "subject_pattern" in capsys.readouterr().err
    pattern = ["--data_options.subject_pattern", "([a-z]+)_"]
    assert main([*arguments, *pattern]) == 0
    assert "1 colour image of 1 subject" in capsys.readouterr().out
    assert main(["evaluate", str(trained_run), *pattern]) == 2
    assert "--data_options go with --data" in capsys.readouterr().err


def test_broken_pictures_of_the_held_out_fold(trained_run: Path, faces: FaceSet, tmp_path: Path) -> None:
    """Also where the training, when they were whole, was not told to leave any out."""
    for subject in ("ann", "bob"):
        (tmp_path / subject / "fear").mkdir(parents=True)
        for name in ("1.png", "2.png"):
            picture = Image.fromarray(faces.images[3].permute(1, 2, 0).numpy())
            picture.save(tmp_path / subject / "fear" / name)
    (tmp_path / "ann" / "fear" / "2.png").write_bytes(b"no picture")
    trained = load_model(trained_run)
    trained.origin["config"] |= {"data": f"folder:{tmp_path}"}
    trained.origin["split"] |= {"test": ["ann"]}
    with pytest.raises(ValueError, match="skip_bad_images leaves out"):
        faces_to_test(trained, None, {}, skip_bad_images=False)
    found = faces_to_test(trained, None, {}, skip_bad_images=True)
    assert found.sources == ["ann/fear/1.png"] and len(found.skipped) == 1


def test_the_held_out_fold_is_read_in_the_expressions_of_the_training(
    trained_run: Path, faces: FaceSet, tmp_path: Path
) -> None:
    """A folder tells its classes itself: with one more or less, labels were read as other expressions."""
    for name in ("fear", "surprise"):
        (tmp_path / "ann" / name).mkdir(parents=True)
        picture = Image.fromarray(faces.images[3].permute(1, 2, 0).numpy())
        picture.save(tmp_path / "ann" / name / "1.png")
    trained = load_model(trained_run)
    trained.origin["config"] |= {"data": f"folder:{tmp_path}"}
    trained.origin["split"] |= {"test": ["ann"]}
    found = faces_to_test(trained, None, {}, skip_bad_images=False)
    assert found.classes == trained.classes
    assert [found.classes[label] for label in found.labels] == ["fear", "surprise"]
    (tmp_path / "ann" / "fear").rename(tmp_path / "ann" / "neutral")
    with pytest.raises(ValueError, match="the data shows neutral, which the model does not know"):
        faces_to_test(trained, None, {}, skip_bad_images=False)


def test_classes_are_matched_by_name(faces: FaceSet) -> None:
    order = tuple(reversed(faces.classes))
    matched = match_classes(faces, (*order, "boredom"))
    assert [matched.classes[label] for label in matched.labels] == [
        faces.classes[label] for label in faces.labels
    ]
    with pytest.raises(ValueError, match="the data shows fear, which the model does not know"):
        match_classes(faces, [name for name in faces.classes if name != "fear"])


def test_an_evaluation_that_is_not_written_leaves_nothing(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command was refused for it, when there was room on the disk again."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "page")

    command = ["evaluate", str(trained_run), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("of the user")
    with monkeypatch.context() as patch:
        patch.setattr("fer_mtl.evaluation.report.write_json", full)
        assert main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    assert main(command) == 0


def test_an_evaluation_that_was_killed_is_made_again(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command was refused, for a run that the folder does not hold."""
    out = tmp_path / "out"
    command = ["evaluate", str(trained_run), "--out", str(out)]
    assert main(command) == 0
    whole = (out / "report.json").read_bytes()
    (out / "report.json").unlink()
    assert main(command) == 0
    assert (out / "report.json").read_bytes() == whole
    assert main(command) == 2  # it is finished
    (out / "report.json").unlink()
    (out / "predictions.csv").write_text("id,target\n1,2\n")
    assert main(command) == 2  # of somebody else
    assert "already holds a run or an evaluation" in capsys.readouterr().err
    assert (out / "predictions.csv").read_text() == "id,target\n1,2\n"


def test_another_evaluation_into_the_same_folder_is_kept(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each found the folder free when it began."""
    out = tmp_path / "out"

    def other(*arguments: object, **options: object) -> object:
        out.mkdir()
        (out / "report.json").write_text("{}")
        return evaluate(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("fer_mtl.commands.evaluate.evaluate", other)
    assert main(["evaluate", str(trained_run), "--out", str(out)]) == 2
    assert "already holds a run or an evaluation" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["report.json"]
