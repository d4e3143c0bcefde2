from __future__ import annotations

import csv
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_mtl.cli import main
from fer_mtl.commands import predict as command
from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.data.images import ImageError
from fer_mtl.evaluation.predict import predict
from fer_mtl.evaluation.reading import COLUMNS, Reading, Table
from fer_mtl.faces import Face
from fer_mtl.training.checkpoints import load_model


def picture(faces: FaceSet, index: int) -> Image.Image:
    return Image.fromarray(faces.images[index].permute(1, 2, 0).numpy())


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / command.TABLE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photos(tmp_path: Path, faces: FaceSet) -> Path:
    folder = tmp_path / "photos ü"
    (folder / "more").mkdir(parents=True)
    picture(faces, 3).save(folder / "a.png")
    picture(faces, 4).save(folder / "more" / "a.png")
    return folder


def finds(monkeypatch: pytest.MonkeyPatch, *boxes: tuple[float, float, float, float]) -> None:
    """Have every detector find faces in these boxes."""

    class Fixed:
        def detect(self, image: np.ndarray) -> list[Face]:
            return [Face(box) for box in boxes]

    monkeypatch.setattr(command, "make_detector", lambda name: Fixed())


def test_whole_pictures_are_read_as_in_testing(
    trained_run: Path, photos: Path, faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(trained_run), str(photos), "--detector", "whole", "--out", str(out)]) == 0
    trained = load_model(trained_run)
    expected = predict(trained.model, faces.images[3:5]).double().softmax(1)
    found = rows(out)
    assert [Path(row["file"]) for row in found] == [photos / "a.png", photos / "more" / "a.png"]
    for row, probability in zip(found, expected, strict=True):
        read = torch.tensor([float(row[name]) for name in trained.classes], dtype=torch.float64)
        torch.testing.assert_close(read, probability, atol=1e-6, rtol=0)
        assert row["expression"] == trained.classes[int(probability.argmax())]
        assert (row["face"], row["frame"], row["second"]) == ("1", "", "")
    assert [row["picture"] for row in found] == ["a-1.png", "a-2.png"]
    assert {path.name for path in out.iterdir()} == {command.TABLE, "a-1.png", "a-2.png"}
    said = capsys.readouterr().out
    assert f"a.png: {found[0]['expression']} " in said and "2 faces: " in said


def test_several_faces_the_largest_first_and_none(
    trained_run: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, out = str(photos / "a.png"), tmp_path / "out"
    finds(monkeypatch, (1, 2, 10, 10), (12, 2, 20, 20))
    assert main(["predict", str(trained_run), file, "--out", str(out)]) == 0
    assert "a.png, face 1 of 2: " in capsys.readouterr().out
    assert [(row["face"], row["left"], row["width"]) for row in rows(out)] == [
        ("1", "12.0", "20.0"),
        ("2", "1.0", "10.0"),
    ]
    finds(monkeypatch)
    assert main(["predict", str(trained_run), file, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert "a.png: no face found" in captured.out
    assert "--detector whole" in captured.err and captured.err.count("\n") == 1
    (row,) = rows(out)
    assert (row["file"], row["face"], row["expression"]) == (file, "0", "")


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_video_is_read_frame_by_frame(
    trained_run: Path,
    faces: FaceSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[str] = []
    monkeypatch.setattr(Console, "note", lambda self, text: noted.append(text))
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    clip, out = tmp_path / f"clip{suffix}", tmp_path / "out"
    side = faces.images.shape[3]
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (side, side))
    for index in range(7):
        writer.write(np.asarray(picture(faces, index))[..., ::-1].copy())
    writer.release()
    arguments = ["predict", str(trained_run), str(clip), "--detector=whole", f"--out={out}", "--step=3"]
    assert main(arguments) == 0
    assert [(row["frame"], row["second"]) for row in rows(out)] == [
        ("0", "0.000"),
        ("3", "0.300"),
        ("6", "0.600"),
    ]
    assert noted == ["1 frame read", "2 frames read", "3 frames read"]
    assert "3 frames read, 3 with a face; the largest shows " in capsys.readouterr().out
    assert (out / "clip.png").is_file() and {row["picture"] for row in rows(out)} == {"clip.png"}


def test_what_cannot_be_read_stops_it_or_is_left_out(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "more" / "broken.png").touch()
    out = tmp_path / "out"
    arguments = ["predict", str(trained_run), str(photos), "--detector", "whole", "--out", str(out)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "broken.png: the file is empty" in error and "--skip_bad_images" in error
    assert len(rows(out)) == 2  # what was read before it is kept
    assert main([*arguments, "--skip-bad-images"]) == 0
    assert "left out: " in capsys.readouterr().out
    assert len(rows(out)) == 2


def test_a_picture_the_detector_cannot_search_is_left_out(
    trained_run: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Fails:
        def detect(self, image: np.ndarray) -> list[Face]:
            if image.shape[0] == 1:
                raise ImageError("cannot search it")
            return [Face((0, 0, 20, 20))]

    monkeypatch.setattr(command, "make_detector", lambda name: Fails())
    Image.new("RGB", (50, 1)).save(photos / "thin.png")
    arguments = ["predict", str(trained_run), str(photos)]
    assert main(arguments) == 2
    assert "thin.png: cannot search it; --skip_bad_images" in capsys.readouterr().err
    assert main([*arguments, "--skip_bad_images"]) == 0
    assert "thin.png: cannot search it" in capsys.readouterr().out


def test_the_pictures_read_are_never_written_over(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    for name, out in ((photos, photos), (photos, photos / "read"), (photos / "a.png", photos)):
        assert main(["predict", str(trained_run), str(name), "--detector=whole", "--out", str(out)]) == 2
        assert "--out must be a folder apart from what is read" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}


def test_pictures_of_others_are_never_written_over(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / ".hidden").touch()
    arguments = ["predict", str(trained_run), str(photos / "a.png"), "--detector=whole", f"--out={album}"]
    for _ in range(2):  # what it has filled it fills again
        assert main(arguments) == 0
    (album / command.TABLE).unlink()
    before = (album / "a.png").read_bytes()
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"--out must be a new folder or one that predict has filled, got {album}" in error
    assert [path.name for path in album.glob("[!.]*")] == ["a.png"] and (
        album / "a.png"
    ).read_bytes() == before


def test_a_run_that_was_killed_can_be_done_again(
    trained_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, left = tmp_path / "out", tmp_path / "left"
    monkeypatch.setattr(command.Command, "picture", lambda self, path, stem: shutil.copytree(out, left))
    arguments = ["predict", str(trained_run), str(photos / "a.png"), "--detector=whole"]
    assert main([*arguments, f"--out={out}"]) == 2  # no face: nothing was read
    monkeypatch.undo()
    (left / "b.png").touch()
    assert main([*arguments, f"--out={left}"]) == 0


def test_the_table_names_no_picture_that_is_not_there(
    trained_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(image: Image.Image, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "save", stopped)
    out = tmp_path / "out"
    assert main(["predict", str(trained_run), str(photos), "--detector=whole", f"--out={out}"]) == 130
    assert rows(out) == []


def test_what_a_folder_holds_besides_is_said(
    trained_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.heic", "more/c.gif", ".hidden", "Thumbs.db"):
        (photos / name).touch()
    assert main(["predict", str(trained_run), str(photos), "--detector=whole"]) == 0
    assert f"2 other files left out, such as {photos / 'b.heic'}\n" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_names_that_are_not_unicode(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture's name is refused before it is read; one that is not read is no hindrance."""
    for suffix in (".png", ".heic"):
        Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9" + suffix.encode())).touch()
    name = os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")
    assert main(["predict", str(trained_run), name]) == 2
    assert "file names must be UTF-8, got " in capsys.readouterr().err
    Path(name).unlink()
    assert main(["predict", str(trained_run), str(photos), "--detector=whole"]) == 0
    assert r"1 other file left out, such as" in (out := capsys.readouterr().out) and r"/caf\xe9.heic" in out


def test_bad_input_is_one_line(
    trained_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    fold = tmp_path / "crossval" / "seed-0" / "fold-3"
    fold.mkdir(parents=True)
    (fold / "best.pt").touch()
    for arguments, message in (
        ([str(trained_run), str(tmp_path / "gone.png")], "no such file or folder"),
        ([str(trained_run), str(tmp_path / "empty")], "no pictures and no videos in"),
        ([str(trained_run), str(photos), "--step", "0"], "--step must be at least 1, got 0"),
        ([str(trained_run), str(photos), "--detector", "hog"], "detector must be one of haar, whole"),
        ([str(tmp_path / "gone"), str(photos)], "gone"),
        ([str(tmp_path / "crossval"), str(photos)], f"name one of its folds, e.g. {fold}"),
    ):
        assert main(["predict", *arguments, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_table_has_one_width() -> None:
    table = Table(("fear", "anger"))
    table.add(Path("a.png"), [])
    table.add(Path("b.png"), [Reading(Face((0, 0, 5, 5)), (0.25, 0.75), torch.empty(0))], 3, math.pi)
    assert {len(row) for row in table.rows} == {len(COLUMNS) + 2}
    assert table.text().splitlines()[2] == "b.png,,3,3.142,1,0.0,0.0,5.0,5.0,anger,0.25,0.75"
