from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

LABELS = {"train_00001": 5, "train_00002": 1, "train_12271": 7, "test_0001": 4, "test_3068": 6}


@pytest.fixture
def root(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    """The distribution's folder `basic`, with aligned and original images of five faces."""
    aligned = {f"basic/Image/aligned/{name}_aligned.jpg": i for i, name in enumerate(LABELS)}
    original = {f"basic/Image/original/{name}.jpg": i + 5 for i, name in enumerate(LABELS)}
    root = write_tree(aligned | original)
    (root / "basic" / "EmoLabel").mkdir()
    list_file(root).write_text("".join(f"{name}.jpg {code}\n" for name, code in LABELS.items()))
    return root


def list_file(root: Path) -> Path:
    return root / "basic" / "EmoLabel" / "list_patition_label.txt"


def test_labels_and_official_parts(root: Path) -> None:
    loaded = load(f"rafdb:{root}", image_size=48)
    assert [loaded.classes[i] for i in loaded.labels] == [
        "sadness", "surprise", "neutral", "happiness", "anger",
    ]  # fmt: skip
    assert loaded.split == ["train"] * 3 + ["test"] * 2
    assert loaded.sources[0] == "basic/Image/aligned/train_00001_aligned.jpg"
    assert not loaded.known_subjects and len(set(loaded.subjects)) == 5
    assert "official split: train 3, test 2" in loaded.describe()
    assert "of unknown subjects" in loaded.describe()


def test_original_images_and_the_folder_basic_itself(root: Path, faces) -> None:
    loaded = load(f"rafdb:{root / 'basic'}", image_size=48, images="original", classes=("anger", "neutral"))
    assert loaded.sources == ["Image/original/train_12271.jpg", "Image/original/test_3068.jpg"]
    assert loaded.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="images must be one of"):
        load(f"rafdb:{root}", image_size=48, images="tiny")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00003.jpg 1\n", r"train_00003_aligned\.jpg: not a readable image \(FileNotFoundError"),
        ("train_00001.jpg 5\n", r"line 6: train_00001\.jpg is listed twice"),
        ("valid_00001.jpg 5\n", "line 6: expected 'train_00001.jpg 5' or the like, got 'valid"),
        ("train_00001.jpg\n", "line 6: expected"),
    ],
)
def test_lines_that_disagree_with_the_folder(root: Path, line: str, message: str) -> None:
    with list_file(root).open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=message):
        load(f"rafdb:{root}", image_size=48)


def test_a_code_that_means_nothing(root: Path) -> None:
    list_file(root).write_text(list_file(root).read_text().replace(" 4", " 8"))
    with pytest.raises(ValueError, match=r"line 4: the label must be one of 1, 2, 3, 4, 5, 6, 7, got '8'"):
        load(f"rafdb:{root}", image_size=48)


def test_images_that_are_not_listed(root: Path) -> None:
    list_file(root).write_text("train_00001.jpg 5\n")
    with pytest.raises(ValueError, match=r"4 of the images .* are not in .*, such as test_0001_aligned\.jpg"):
        load(f"rafdb:{root}", image_size=48)


def test_the_list_as_a_windows_editor_leaves_it(root: Path) -> None:
    text = list_file(root).read_text().replace("\n", "\r\n")
    list_file(root).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(load(f"rafdb:{root}", image_size=48)) == 5
