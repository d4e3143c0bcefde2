from __future__ import annotations

import errno
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from fer_mtl.cli import main
from fer_mtl.commands.prepare import jobs_of_set
from fer_mtl.data import FaceSet, load
from fer_mtl.data.affectnet import COLUMNS
from fer_mtl.data.files import Found, Record
from fer_mtl.data.images import Cropped
from fer_mtl.data.video import VideoFrame
from fer_mtl.faces.prepare import STATE


def write(path: Path, faces: FaceSet, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    face = faces.images[index].permute(1, 2, 0).numpy()
    Image.fromarray(np.pad(face, ((0, 0), (8, 8), (0, 0)))).save(path)


@pytest.fixture
def ckplus(tmp_path: Path, faces: FaceSet) -> Path:
    """One labelled sequence of five frames and one without a label."""
    root = tmp_path / "CK+"
    for sequence in ("001", "002"):
        for frame in range(1, 6):
            path = root / "cohn-kanade-images" / "S005" / sequence / f"S005_{sequence}_0000000{frame}.png"
            write(path, faces, frame)
    label = root / "Emotion" / "S005" / "001" / "S005_001_00000005_emotion.txt"
    label.parent.mkdir(parents=True)
    label.write_text("   3.0000000e+00\n")
    return root


def test_a_data_set_is_read_from_the_results(
    ckplus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["prepare", f"ckplus:{ckplus}", str(out), "--detector", "whole", "--workers", "1"]) == 0
    assert capsys.readouterr().out.endswith(f"3 faces in {out}\n")  # nobody has looked for eyes
    loaded = load(f"ckplus:{out}", image_size=96)
    assert loaded.class_counts()["disgust"] == 3
    assert loaded.notes == []  # 110 x 110 already
    first = (out / loaded.sources[0]).stat().st_mtime_ns
    assert main(["prepare", f"ckplus:{ckplus}", str(out), "--detector", "whole"]) == 0
    assert (out / loaded.sources[0]).stat().st_mtime_ns == first


@pytest.mark.parametrize("named", [True, False])
def test_boxes_are_not_applied_to_prepared_faces(tmp_path: Path, faces: FaceSet, named: bool) -> None:
    root, out = tmp_path / "AffectNet", tmp_path / "out"
    columns = ",".join(COLUMNS)
    for i, table in enumerate(("training.csv", "validation.csv")):
        write(root / "Manually_Annotated_Images" / "1" / f"{i}.png", faces, i)
        (root / table).write_text(f"{columns}\n1/{i}.png,4,4,20,20,1;2,1,0,0\n")
    source = f"affectnet7:{root}" if named else str(root)
    assert main(["prepare", source, str(out), "--detector", "whole", "--size", "110"]) == 0
    loaded = load(f"affectnet7:{out}", image_size=96)
    whole = load(f"affectnet7:{out}", image_size=96, boxes=False)
    assert loaded.images.equal(whole.images)
    assert loaded.notes == [
        "faces that fer-mtl prepare has cut out: the tables' boxes are not applied to them"
    ]


def test_a_link_to_a_label_file_that_is_gone_is_refused_before_the_work(
    ckplus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ckplus / "FACS.txt").symlink_to(tmp_path / "gone")
    assert main(["prepare", str(ckplus), str(tmp_path / "out"), "--detector", "whole"]) == 2
    assert f"label file {ckplus / 'FACS.txt'} cannot be read: No such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_plain_folder_takes_every_picture(
    ckplus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ckplus / "broken.png").touch()
    (ckplus / "clip.avi").touch()
    (ckplus / ".hidden").mkdir()
    (ckplus / ".hidden" / "no.png").touch()
    out = tmp_path / "out"
    assert main(["prepare", str(ckplus), str(out), "--detector=whole", "--size=64", "--workers=1"]) == 0
    text = capsys.readouterr().out
    assert "10 faces in" in text and "1 video left out" in text
    assert "1 picture failed" in text and "broken.png: " in text and "the file is empty" in text
    assert (out / STATE / "failed.csv").read_text().splitlines()[1].startswith("broken.png,")
    assert (out / "Emotion" / "S005" / "001" / "S005_001_00000005_emotion.txt").is_file()


def test_a_source_is_the_same_however_it_is_written(
    ckplus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2", reason="one of the detectors is OpenCV's")
    monkeypatch.chdir(tmp_path)
    for name in ("", "ckplus:"):
        out = f"out {name.strip(':')}"
        for source in ("CK+", "CK+/", "./CK+", ckplus):
            assert main(["prepare", f"{name}{source}", out, "--detector=whole", "--workers=1"]) == 0
        assert main(["prepare", f"{name}CK+/../CK+", out, "--detector=haar"]) == 2
        assert "was prepared with detector" in capsys.readouterr().err
    (settings := tmp_path / "out ckplus" / STATE / "settings.json").write_text(
        settings.read_text().replace(f"ckplus:{ckplus}", "ckplus:CK+")  # as older versions wrote it
    )
    assert main(["prepare", "ckplus:CK+/", "out ckplus", "--detector=whole", "--workers=1"]) == 0
    assert main(["prepare", "CK+", "out ckplus", "--detector=whole"]) == 2
    assert "was prepared with source 'ckplus:CK+'" in capsys.readouterr().err


def test_frames_boxes_and_tables(tmp_path: Path) -> None:
    video = tmp_path / "Sessions" / "1" / "S001-001.avi"
    picture = tmp_path / "a.jpg"
    records = [
        Record(video, "fear", "S001", None, VideoFrame(video, 45)),
        Record(picture, "fear", "a", None, Cropped(picture, 0, 0, 5, 5)),
    ]
    frame, whole = jobs_of_set(Found(tmp_path, records, ("fear",)))
    assert (frame.name, frame.picture) == ("Sessions/1/S001-001/00045.png", VideoFrame(video, 45))
    assert (whole.name, whole.picture) == ("a.jpg", picture)

    class Row:
        def open(self) -> Image.Image:
            return Image.new("L", (48, 48))

    with pytest.raises(ValueError, match="show cropped faces already"):
        jobs_of_set(Found(tmp_path, [Record(picture, "fear", "a", None, Row())], ("fear",)))


def test_bad_input_is_one_line(ckplus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(ckplus), str(ckplus / "out")], "OUT must not lie in IN"),
        ([str(tmp_path / "nowhere"), "out"], "does not exist"),
        ([str(ckplus / "Emotion"), str(tmp_path / "out")], "no pictures in"),
        ([str(ckplus), str(tmp_path / "out"), "--detector", "hog"], "detector must be one of haar, whole"),
    ):
        assert main(["prepare", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_face_at_all_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "photos", tmp_path / "out"
    root.mkdir()
    (root / "a.png").touch()
    (root / "b.heic").touch()
    (root / "notes.txt").touch()
    assert main(["prepare", str(root), str(out), "--detector", "whole"]) == 2
    said = capsys.readouterr()
    assert (
        f"1 other file left out, such as {root / 'b.heic'}\n" in said.out and "1 picture failed" in said.out
    )
    assert said.err == f"fer-mtl prepare: error: no face was found in {root}\n"
    pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    assert main(["prepare", str(root), str(tmp_path / "haar")]) == 2
    assert f"no face was found in {root}; --detector whole takes " in capsys.readouterr().err


def test_workers_are_counted_from_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    arguments = ["prepare", str(tmp_path / "photos"), str(tmp_path / "out"), "--detector", "whole"]
    assert main([*arguments, "--workers", "0"]) == 2
    assert "workers must be an int of at least 1, got 0" in capsys.readouterr().err


def test_a_label_file_is_copied_whole_or_not_at_all(
    ckplus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table that is cut short fewer pictures are read, and nobody learns of it."""

    def half(source: BinaryIO, target: BinaryIO) -> None:
        target.write(source.read(3))
        raise OSError(errno.ENOSPC, "No space left on device")

    label = Path("Emotion") / "S005" / "001" / "S005_001_00000005_emotion.txt"
    command = ["prepare", str(ckplus), str(tmp_path / "out"), "--detector", "whole"]
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", half)
        assert main(command) == 2
    assert f"No space left on device: '{tmp_path / 'out' / label}'" in capsys.readouterr().err
    assert not (tmp_path / "out" / label).exists()
    assert main(command) == 0
    assert (tmp_path / "out" / label).read_bytes() == (ckplus / label).read_bytes()
