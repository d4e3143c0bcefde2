from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

FOLDERS = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise")


@pytest.fixture
def root(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    root = write_tree(
        {
            f"{subject}/{folder}/{frame:03d}.jpg": 36 * person + 6 * label + frame
            for person, subject in enumerate(("F001", "M043"))
            for label, folder in enumerate(FOLDERS)
            for frame in range(5 + person)
        }
    )
    (root / "F001" / "Angry" / "000.wrl").touch()
    (root / "F001" / "Angry" / "000.mtl").touch()
    (root / "BU_WrlViewer_V2").mkdir()
    return root


def test_the_three_frames_in_the_middle(root: Path) -> None:
    loaded = load(f"bu4dfe:{root}", image_size=48)
    assert loaded.class_counts() == dict.fromkeys(loaded.classes, 6) and len(loaded.classes) == 6
    assert loaded.sources[:3] == [f"F001/Angry/00{frame}.jpg" for frame in (1, 2, 3)]
    assert loaded.sources[-3:] == [f"M043/Surprise/00{frame}.jpg" for frame in (1, 2, 3)]
    assert set(loaded.subjects) == {"F001", "M043"}
    assert loaded.notes[0] == "not a subject's folder, left out: BU_WrlViewer_V2"


def test_an_unknown_expression_and_a_short_sequence(root: Path) -> None:
    for path in sorted((root / "F001" / "Fear").iterdir())[2:]:
        path.unlink()
    with pytest.raises(ValueError, match="F001/Fear has 2 frames"):
        load(f"bu4dfe:{root}", image_size=48)
    loaded = load(f"bu4dfe:{root}", image_size=48, incomplete="leave_out")
    assert loaded.class_counts()["fear"] == 3 and "F001/Fear has 2 frames" in loaded.notes[1]
    (root / "F001" / "Fear").rename(root / "F001" / "Boredom")
    with pytest.raises(ValueError, match="unknown expression 'Boredom'"):
        load(f"bu4dfe:{root}", image_size=48)
