from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import EXPRESSIONS, load

FOLDERS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")


@pytest.fixture
def tree(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    """Subjects S010 and S999 in every expression, two frames each, named as in CK+48."""
    files = {
        f"{folder}/{subject}_00{label}_000000{frame:02d}.png": person * 14 + 2 * label + frame
        for person, subject in enumerate(("S010", "S999"))
        for label, folder in enumerate(FOLDERS)
        for frame in (0, 1)
    }
    return write_tree(files)


def test_labels_subjects_and_sources(tree: Path) -> None:
    (tree / ".DS_Store").touch()
    (tree / "fear" / "Thumbs.db").touch()
    faces = load(f"ck48:{tree}", image_size=48, channels=1)
    assert (faces.name, faces.classes, faces.channels) == ("ck48", EXPRESSIONS, 1)
    assert faces.labels.tolist() == [label for label in range(7) for _ in range(4)]
    assert faces.subjects == ["S010", "S010", "S999", "S999"] * 7
    happy = faces.subset(faces.labels == EXPRESSIONS.index("happiness"))
    assert happy.sources[0] == "happy/S010_004_00000000.png"


def test_pictures_belong_to_their_labels(tree: Path, faces) -> None:
    loaded = load(f"ck48:{tree}", image_size=48)
    index = loaded.sources.index("sadness/S999_005_00000001.png")
    assert loaded.images[index].equal(faces.images[14 + 2 * 5 + 1])


def test_fewer_classes_by_choice(tree: Path) -> None:
    chosen = ("surprise", "fear")
    faces = load(f"ck48:{tree}", image_size=48, classes=chosen)
    assert faces.class_counts() == {"surprise": 4, "fear": 4}


@pytest.mark.parametrize(
    "name",
    ["S01_004_00000017.png", "S0100_004_00000017.png", "S010_004_00000017.jpg", "S010_004_00000017.png.png"],
)
def test_a_name_that_does_not_fit_is_named(tree: Path, name: str) -> None:
    (tree / "fear" / name).touch()
    with pytest.raises(ValueError, match=f"{name}: the name is not like"):
        load(f"ck48:{tree}", image_size=48)


def test_unknown_and_missing_folders_are_named(tree: Path) -> None:
    (tree / "boredom").mkdir()
    with pytest.raises(ValueError, match=r"unknown expression 'boredom' in .*boredom"):
        load(f"ck48:{tree}", image_size=48)
    (tree / "boredom").rmdir()
    (tree / "happy").rename(tree.parent / "elsewhere")
    with pytest.raises(ValueError, match="no folder for happiness; found: anger"):
        load(f"ck48:{tree}", image_size=48)


def test_two_folders_of_one_expression_are_named(tree: Path) -> None:
    (tree / "happiness").mkdir()
    with pytest.raises(ValueError, match="has happiness twice, as happiness and happy"):
        load(f"ck48:{tree}", image_size=48)


def test_pictures_in_a_folder_too_deep_are_not_passed_over(tree: Path) -> None:
    """As of an archive unpacked into a folder of its name."""
    (tree / "happy").rename(tree / "unpacked")
    (tree / "happy").mkdir()
    (tree / "unpacked").rename(tree / "happy" / "happy")
    with pytest.raises(ValueError, match="happy/happy is a folder where pictures are expected"):
        load(f"ck48:{tree}", image_size=48)


def test_bad_images(tree: Path) -> None:
    bad = tree / "fear" / "S010_003_00000000.png"
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=bad.name):
        load(f"ck48:{tree}", image_size=48)
    faces = load(f"ck48:{tree}", image_size=48, skip_bad_images=True)
    assert len(faces) == 27
    assert faces.class_counts()["fear"] == 3
    assert bad.name in faces.skipped[0]
    assert faces.labels[faces.sources.index("fear/S999_003_00000000.png")] == 3
