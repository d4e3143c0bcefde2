from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

WriteTree = Callable[[dict[str, int]], Path]
FOLDERS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")


def files(place: str, frames: int = 4) -> dict[str, int]:
    return {
        f"{place}/{subject}/{folder}/{frame:03d}.jpeg": 24 * person + 4 * label + frame
        for person, subject in enumerate(("P001", "P080"))
        for label, folder in enumerate(FOLDERS)
        for frame in range(frames)
    }


@pytest.mark.parametrize(
    "place", ["OriginalImg/VL/Strong", "VL_Acropped/Strong", "PreProcessImg/VL_Acropped/Strong"]
)
def test_the_last_three_frames(write_tree: WriteTree, place: str) -> None:
    loaded = load(f"oulu_casia:{write_tree(files(place))}", image_size=48)
    assert loaded.class_counts() == dict.fromkeys(loaded.classes, 6) and len(loaded.classes) == 6
    assert loaded.sources[:3] == [f"{place}/P001/Anger/00{frame}.jpeg" for frame in (1, 2, 3)]
    assert set(loaded.subjects) == {"P001", "P080"}


def test_neutral_first_frames(write_tree: WriteTree) -> None:
    root = write_tree(files("VL/Strong"))
    loaded = load(f"oulu_casia:{root}", image_size=48, classes=("neutral", "fear"), frames=1)
    assert loaded.class_counts() == {"neutral": 2, "fear": 2}
    assert [Path(s).name for s in loaded.sources] == ["000.jpeg", "003.jpeg"] * 2


def test_neutral_needs_the_beginning_of_the_sequence(write_tree: WriteTree) -> None:
    root = write_tree(files("VL/Strong"))
    (root / "VL" / "Strong" / "P080" / "Fear" / "000.jpeg").unlink()
    with pytest.raises(ValueError, match="P080/Fear does not begin with its first frame"):
        load(f"oulu_casia:{root}", image_size=48, classes=("neutral", "fear"), frames=1)
    loaded = load(f"oulu_casia:{root}", image_size=48, classes=("neutral", "fear"), incomplete="leave_out")
    assert set(loaded.subjects) == {"P001"} and "P080/Fear" in loaded.notes[0]


def test_frames_are_ordered_by_number(write_tree: WriteTree) -> None:
    root = write_tree({f"VL/Strong/P001/Fear/{n}.jpeg": i for i, n in enumerate(("9", "10", "11", "100"))})
    loaded = load(f"oulu_casia:{root}", image_size=48, classes=("fear",))
    assert [Path(s).stem for s in loaded.sources] == ["10", "11", "100"]


def test_original_and_cropped_must_not_be_mixed(write_tree: WriteTree) -> None:
    root = write_tree(files("OriginalImg/VL/Strong") | files("VL_Acropped/Strong"))
    with pytest.raises(
        ValueError, match="visible-light images twice, as OriginalImg/VL/Strong and VL_Acropped"
    ):
        load(f"oulu_casia:{root}", image_size=48)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P1/Fear/000.jpeg", "P1 is not a subject's folder"),
        ("P003/Boredom/000.jpeg", "unknown expression 'Boredom'"),
        ("P003/Fear/000.jpeg", "Fear has 1 frames, at least 3 are needed"),
        ("P003/Fear/a.jpeg", r"a\.jpeg: the name of a frame is not a number"),
    ],
)
def test_what_does_not_follow_the_layout(write_tree: WriteTree, name: str, message: str) -> None:
    root = write_tree(files("VL/Strong") | {f"VL/Strong/{name}": 0})
    with pytest.raises(ValueError, match=message):
        load(f"oulu_casia:{root}", image_size=48)
