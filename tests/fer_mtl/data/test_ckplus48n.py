from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

FOLDERS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


@pytest.fixture
def tree(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    """Two subjects; every sequence has its first frame in neutral and one peak frame in its expression."""
    files = {}
    for person, subject in enumerate(("S005", "S138")):
        peaks = [name for name in FOLDERS if name != "neutral"]
        for sequence, folder in enumerate(peaks, start=1):
            files[f"{folder}/{subject}_00{sequence}_00000011.png"] = 14 * person + 2 * (sequence - 1)
            files[f"neutral/{subject}_00{sequence}_00000001.png"] = 14 * person + 2 * (sequence - 1) + 1
    return write_tree(files)


def test_neutral_is_the_eighth_class(tree: Path) -> None:
    faces = load(f"ckplus48n:{tree}", image_size=48)
    assert faces.classes[-2:] == ("surprise", "neutral")
    assert faces.class_counts() == {name: 2 for name in faces.classes} | {"neutral": 14}
    assert set(faces.subjects) == {"S005", "S138"}
    assert faces.sources[-1] == "neutral/S138_007_00000001.png"


def test_without_contempt(tree: Path) -> None:
    faces = load(f"ckplus48n:{tree}", image_size=48, classes=("fear", "neutral"))
    assert faces.class_counts() == {"fear": 2, "neutral": 14}


def test_a_sequence_with_two_expressions_is_refused(tree: Path) -> None:
    (tree / "fear" / "S005_004_00000011.png").rename(tree / "anger" / "S005_004_00000011.png")
    (tree / "fear" / "S005_004_00000010.png").touch()
    with pytest.raises(ValueError, match=r"S005_004_000000\d+\.png and .* one sequence with two expressions"):
        load(f"ckplus48n:{tree}", image_size=48)
