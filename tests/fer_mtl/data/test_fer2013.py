from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_mtl.data import load

GreyRows = tuple[torch.Tensor, list[str]]
USAGES = ("Training", "Training", "Training", "Training", "PublicTest", "PrivateTest", "PrivateTest")


@pytest.fixture
def table(tmp_path: Path, grey_rows: GreyRows) -> Path:
    """fer2013.csv with the codes 0 to 6 in order."""
    rows = [f"{code},{grey_rows[1][code]},{usage}\n" for code, usage in enumerate(USAGES)]
    path = tmp_path / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n" + "".join(rows))
    return path


def test_the_table(table: Path, grey_rows: GreyRows) -> None:
    loaded = load(f"fer2013:{table.parent}", image_size=42, channels=1)
    assert loaded.images[:, 0].equal(grey_rows[0][:7])
    assert [loaded.classes[i] for i in loaded.labels] == [
        "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral",
    ]  # fmt: skip
    assert loaded.split == ["train"] * 4 + ["validation", "test", "test"]
    assert loaded.sources == [f"fer000000{i}" for i in range(7)] == loaded.subjects
    assert not loaded.known_subjects


def test_the_table_with_spaces_in_its_header_and_another_order(table: Path, grey_rows: GreyRows) -> None:
    table.unlink()
    (table.parent / "icml_face_data.csv").write_text(
        f"emotion, Usage, pixels\n6,PrivateTest,{grey_rows[1][3]}\n"
    )
    loaded = load(f"fer2013:{table.parent}", image_size=42, channels=1)
    assert loaded.images[0, 0].equal(grey_rows[0][3])
    assert (loaded.split, loaded.classes[loaded.labels[0]]) == (["test"], "neutral")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ("1 2 3", r"fer2013\.csv, line 9: pixels must be 2304 numbers from 0 to 255, got 3"),
        ("256 " * 2304, "got 2304 from 256 to 256"),
        ("x " * 2304, "pixels must be whole numbers"),
        ("9" * 2304, "pixels must be whole numbers"),  # of which the spaces were lost
        ("", "got 0"),
    ],
)
def test_bad_pixels_are_named_or_skipped(table: Path, pixels: str, message: str) -> None:
    with table.open("a") as file:
        file.write(f"0,{pixels},Training\n")
    with pytest.raises(ValueError, match=message):
        load(f"fer2013:{table.parent}", image_size=42)
    loaded = load(f"fer2013:{table.parent}", image_size=42, skip_bad_images=True)
    assert len(loaded) == 7 and "line 9" in loaded.skipped[0]
    assert loaded.split is not None and len(loaded.split) == 7


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7,{},Training", r"line 9: emotion must be one of 0, 1, 2, 3, 4, 5, 6, got '7'"),
        ("1,{},Test", "line 9: Usage must be one of Training, PublicTest, PrivateTest, got 'Test'"),
        ("1,{}", "line 9: 2 values, expected 3"),
    ],
)
def test_rows_that_make_no_sense(table: Path, grey_rows: GreyRows, row: str, message: str) -> None:
    with table.open("a") as file:
        file.write(row.format(grey_rows[1][0]) + "\n")
    with pytest.raises(ValueError, match=message):
        load(f"fer2013:{table.parent}", image_size=42)


@pytest.fixture
def folders(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    """The usual copy as pictures: both official test parts lie in `test`."""
    return write_tree(
        {
            "train/angry/Training_3908.jpg": 0,
            "train/happy/Training_10019449.jpg": 6,
            "train/neutral/Training_1.jpg": 7,
            "test/angry/PublicTest_10131363.jpg": 14,
            "test/happy/PrivateTest_95094.jpg": 20,
        }
    )


def test_folders(folders: Path) -> None:
    loaded = load(f"fer2013:{folders}", image_size=42)
    by_source = dict(zip(loaded.sources, loaded.split or [], strict=True))
    assert by_source == {
        "train/angry/Training_3908.jpg": "train",
        "train/happy/Training_10019449.jpg": "train",
        "train/neutral/Training_1.jpg": "train",
        "test/angry/PublicTest_10131363.jpg": "validation",
        "test/happy/PrivateTest_95094.jpg": "test",
    }
    assert loaded.class_counts() == {
        "anger": 2, "disgust": 0, "fear": 0, "happiness": 2, "sadness": 0, "surprise": 0, "neutral": 1,
    }  # fmt: skip


def test_a_file_in_the_folder_of_another_part(folders: Path) -> None:
    (folders / "test" / "angry" / "Training_7.jpg").touch()
    with pytest.raises(ValueError, match=r"Training_7\.jpg belongs to the train part, but lies in test"):
        load(f"fer2013:{folders}", image_size=42)


def test_a_table_beside_folders_and_neither(folders: Path, table: Path) -> None:
    (folders / "fer2013.csv").write_text(table.read_text())
    with pytest.raises(ValueError, match=r"must hold one of .* got fer2013.csv, test, train"):
        load(f"fer2013:{folders}", image_size=42)
    empty = folders / "train" / "angry"
    with pytest.raises(ValueError, match="got neither"):
        load(f"fer2013:{empty}", image_size=42)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Train/sad/Training_2.jpg", "has the train part twice, as Train and train: keep one"),
        ("train/Training_2.jpg", r"Training_2\.jpg is a picture between the expressions' folders"),
        ("train/happy/happy/Training_2.jpg", "train/happy/happy is a folder where pictures are expected"),
    ],
)
def test_no_picture_is_passed_over(folders: Path, name: str, message: str) -> None:
    path = folders / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (folders / "train/neutral/Training_1.jpg").rename(path)
    with pytest.raises(ValueError, match=message):
        load(f"fer2013:{folders}", image_size=42)
