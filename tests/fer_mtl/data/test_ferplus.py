from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_mtl.data import load

GreyRows = tuple[torch.Tensor, list[str]]
HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
ROWS = (
    "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0\n"  # four of ten for neutral
    "Training,fer0000001.png,0,9,1,0,0,0,0,0,0,0\n"
    "Training,,0,0,0,0,0,0,0,0,0,10\n"
    "Training,fer0000003.png,0,0,0,0,0,0,0,6,4,0\n"
    "PublicTest,fer0000004.png,0,0,0,5,5,0,0,0,0,0\n"  # a tie
    "PrivateTest,fer0000005.png,0,0,8,0,0,0,2,0,0,0\n"
    "PrivateTest,fer0000006.png,1,0,0,0,0,0,0,0,9,0\n"
)
USAGES = [row.partition(",")[0] for row in ROWS.splitlines()]


@pytest.fixture
def root(tmp_path: Path, grey_rows: GreyRows) -> Path:
    (tmp_path / "fer2013new.csv").write_text(HEADER + ROWS)
    table = "".join(f"0,{grey_rows[1][i]},{usage}\n" for i, usage in enumerate(USAGES))
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + table)
    return tmp_path


def test_majority_on_the_pixels_of_fer2013(root: Path, grey_rows: GreyRows) -> None:
    loaded = load(f"ferplus:{root}", image_size=42, channels=1)
    assert loaded.sources == ["fer0000001.png", "fer0000003.png", "fer0000005.png"]
    assert [loaded.classes[i] for i in loaded.labels] == ["happiness", "contempt", "surprise"]
    assert loaded.split == ["train", "train", "test"]
    assert loaded.subjects == ["fer0000001", "fer0000003", "fer0000005"]  # as in fer2013
    assert loaded.images[:, 0].equal(grey_rows[0][[1, 3, 5]])
    assert loaded.notes[:2] == [
        "3 rows of 7 without agreement on an expression left out",
        "1 row of 7 without an image name left out",
    ]  # fmt: skip


def test_plurality_takes_the_most_votes_but_no_tie(root: Path) -> None:
    loaded = load(f"ferplus:{root}", image_size=42, rule="plurality")
    assert loaded.sources == [f"fer000000{i}.png" for i in (0, 1, 3, 5)]
    with pytest.raises(ValueError, match="rule must be one of"):
        load(f"ferplus:{root}", image_size=42, rule="all")


@pytest.mark.parametrize("place", ["", "images/", "data/"])
def test_pictures(write_tree: Callable[[dict[str, int]], Path], place: str) -> None:
    root = write_tree(
        {
            f"{place}FER2013Train/fer0000001.png": 1,
            f"{place}FER2013Train/fer0000003.png": 3,
            f"{place}FER2013Test/fer0000005.png": 5,
        }
    )
    (root / "fer2013new.csv").write_text(HEADER + ROWS)
    loaded = load(f"ferplus:{root}", image_size=42)
    assert loaded.sources[-1] == f"{place}FER2013Test/fer0000005.png"
    assert loaded.subjects[-1] == "fer0000005"
    (root / loaded.sources[-1]).unlink()
    with pytest.raises(ValueError, match=r"fer0000005\.png"):
        load(f"ferplus:{root}", image_size=42)


def test_tables_of_different_rows(root: Path) -> None:
    votes = root / "fer2013new.csv"
    votes.write_text(HEADER + ROWS + "PrivateTest,fer0000007.png,9,0,0,0,0,0,0,0,1,0\n")
    with pytest.raises(ValueError, match=r"line 9 does not fit row 8 of fer2013\.csv"):
        load(f"ferplus:{root}", image_size=42)
    votes.write_text(HEADER + ROWS.partition("\n")[2])
    with pytest.raises(ValueError, match=r"does not fit row|has 6 rows, fer2013\.csv 7"):
        load(f"ferplus:{root}", image_size=42)
    votes.write_text(HEADER + "".join(ROWS.splitlines(keepends=True)[:6]))
    with pytest.raises(ValueError, match=r"has 6 rows, fer2013\.csv 7"):
        load(f"ferplus:{root}", image_size=42)


def test_what_is_missing_is_named(root: Path) -> None:
    (root / "fer2013.csv").unlink()
    with pytest.raises(ValueError, match="labels but no pictures"):
        load(f"ferplus:{root}", image_size=42)
    (root / "fer2013new.csv").unlink()
    with pytest.raises(ValueError, match=r"has no fer2013new\.csv"):
        load(f"ferplus:{root}", image_size=42)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Test,fer0000007.png,9,0,0,0,0,0,0,0,1,0", "line 9: Usage must be one of"),
        ("Training,fer0000007.png,many,0,0,0,0,0,0,0,1,0", "line 9: neutral must be a number, got 'many'"),
    ],
)
def test_rows_that_make_no_sense(root: Path, row: str, message: str) -> None:
    (root / "fer2013new.csv").write_text(HEADER + ROWS + row + "\n")
    with pytest.raises(ValueError, match=message):
        load(f"ferplus:{root}", image_size=42)


def test_a_picture_that_is_listed_twice(root: Path) -> None:
    """One with two labels might be trained on and tested."""
    (root / "FER2013Train").mkdir()
    again = ROWS.splitlines(keepends=True)[1].replace("Training", "PrivateTest")
    (root / "fer2013new.csv").write_text(HEADER + ROWS + again)
    with pytest.raises(ValueError, match=r"line 9: fer0000001\.png is listed already in .*line 3"):
        load(f"ferplus:{root}", image_size=42)
