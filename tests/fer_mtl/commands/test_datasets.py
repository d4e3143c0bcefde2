from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fer_mtl.cli import main
from fer_mtl.data import DATASETS, FaceSet


@pytest.fixture
def photos(tmp_path: Path, faces: FaceSet) -> Path:
    """Four drawn pictures as <expression>/<subject>_*; one of them is there twice, under two subjects."""
    files = {"happy/S1 a.png": 8, "happy/S2 ü.png": 15, "fear/S1 b.png": 6, "fear/S2 c.png": 6}
    for name, index in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images[index].permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "photos"


def test_all_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in DATASETS)


def test_a_name_alone_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "ckplus"]) == 0
    out = capsys.readouterr().out
    assert "cohn-kanade-images" in out and "seventh = 'contempt'" in out


def test_a_folder_is_checked_with_options(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "12:cat:30.png"
    options = ["--data-options.subject_pattern", r"(S\d+)", "--sheet", str(sheet), "--image-size", "32"]
    assert main(["datasets", "folder", str(photos), *options]) == 0
    out = capsys.readouterr().out
    assert "4 colour images of 2 subjects" in out
    assert "equal to another picture: 1 picture; nearly equal: 0 pairs" in out
    assert "the same picture of two subjects: fear/S1 b.png (S1) and fear/S2 c.png (S2)" in out
    assert Image.open(sheet).format == "PNG" and f"contact sheet: {sheet}\n" in out


def test_the_folder_after_a_colon_and_fewer_questions(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data_options.subject_pattern", r"(S\d+)", "--duplicates", "none"]
    assert main(["datasets", f"folder:{photos}", *options]) == 0
    assert "equal to another picture: not looked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown data set 'nothing'"),
        (["ck48:a", "b"], "the folder must be given once, got 'ck48:a' and 'b'"),
        (["procedural", "b"], "data set 'procedural' takes no folder, got 'b'"),
        (["ck48", "nowhere"], "does not exist: nowhere"),
        (["procedural", "--data_options.identities", "3"], "no option 'identities'"),
        (["procedural:num_subjects=1", "--duplicates", "all"], "duplicates must be one of"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datasets", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_sheet_needs_a_file(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    options = ["--data_options.subject_pattern", r"(S\d+)", "--sheet=~"]
    assert main(["datasets", "folder", str(photos), *options]) == 2
    assert f"--sheet must be a file, got the folder {tmp_path}\n" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [photos]
