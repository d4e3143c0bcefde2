from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
)
LANDMARKS = ";".join(["10.5"] * 136)


def row(path: str, expression: int, box: str = "5,6,40,40") -> str:
    return f"{path},{box},{LANDMARKS},{expression},-0.5,0.25\n"


TRAINING = (
    HEADER
    + row("689/a b.jpg", 1)
    + row("1/ü.JPG", 7)
    + row("1/c.jpg", 0)
    + row("1/none.jpg", 8)
    + row("1/gone.jpg", 10, "NULL,NULL,NULL,NULL")
)
VALIDATION = row("2/d.jpg", 6) + row("2/e.jpg", 9)


@pytest.fixture
def root(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    names = ("689/a b.jpg", "1/ü.JPG", "1/c.jpg", "2/d.jpg")
    root = write_tree({f"Manually_Annotated_Images/{name}": i for i, name in enumerate(names)})
    (root / "training.csv").write_text(TRAINING)
    (root / "validation.csv").write_text(VALIDATION)
    return root


def test_eight_classes(root: Path) -> None:
    loaded = load(f"affectnet8:{root}", image_size=48)
    assert [loaded.classes[i] for i in loaded.labels] == ["happiness", "contempt", "neutral", "anger"]
    assert loaded.split == ["train", "train", "train", "test"]
    assert loaded.sources[0] == "Manually_Annotated_Images/689/a b.jpg"
    assert loaded.notes[0] == "3 rows with other labels left out"
    assert not loaded.known_subjects and len(set(loaded.subjects)) == 4


def test_seven_classes_and_pictures_beside_the_tables(root: Path) -> None:
    for folder in sorted((root / "Manually_Annotated_Images").iterdir()):
        folder.rename(root / folder.name)
    (root / "Manually_Annotated_Images").rmdir()
    loaded = load(f"affectnet7:{root}", image_size=48)
    assert "contempt" not in loaded.classes
    assert loaded.sources == ["689/a b.jpg", "1/c.jpg", "2/d.jpg"]
    with pytest.raises(ValueError, match="classes must be distinct and some of"):
        load(f"affectnet7:{root}", image_size=48, classes=("contempt",))


def test_pictures_are_cut_to_their_boxes(root: Path) -> None:
    whole = load(f"affectnet8:{root}", image_size=48, boxes=False)
    assert whole.notes == ["3 rows with other labels left out"]  # stored at 55 x 55 as it is
    cut = load(f"affectnet8:{root}", image_size=48)
    assert "4 of 4 images resized to 55 x 55 (most are 40 x 40)" in cut.notes[1]
    assert not cut.images.equal(whole.images)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row("2/f.jpg", 11), r"validation\.csv, line 3: expression must be one of 0, .*, got '11'"),
        (row("2/d.jpg", 1), r"validation\.csv, line 3: 2/d\.jpg is listed already in .*line 1"),
        (
            row("1/c.jpg", 1),
            r"validation\.csv, line 3: 1/c\.jpg is listed already in .*training\.csv, line 4",
        ),
        (row("2/f.jpg", 1, "1,2,0,4"), "line 3: the face's box must have a positive size"),
        (row("2/f.jpg", 1, "1,2,x,4"), "line 3: face_width must be a number, got 'x'"),
        (row("2/f.jpg", 1, "1,2,inf,4"), "line 3: face_width must be a number, got 'inf'"),
        ("2/f.jpg,1\n", "line 3: 2 values, expected 9"),
        (row("2/f.jpg", 1), r"f\.jpg: not a readable image"),
        (row("2/d2.jpg", 1, "90,90,9,9"), "d2.jpg: not a readable"),
    ],
)
def test_rows_that_make_no_sense(root: Path, line: str, message: str) -> None:
    (root / "validation.csv").write_text(VALIDATION + line)
    with pytest.raises(ValueError, match=message):
        load(f"affectnet8:{root}", image_size=48)


def test_a_table_that_is_missing_or_another(root: Path) -> None:
    (root / "validation.csv").write_text("path,label\n1,2\n")
    with pytest.raises(ValueError, match="the first line must name the columns subDirectory_filePath"):
        load(f"affectnet8:{root}", image_size=48)
    (root / "validation.csv").unlink()
    with pytest.raises(ValueError, match=r"has no validation\.csv"):
        load(f"affectnet8:{root}", image_size=48)
