from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

CODES = {"S005/001": 3, "S005/002": 5, "S138/004": 7, "S138/008": 2}


@pytest.fixture
def root(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    """Four labelled sequences of five frames, one with an empty label folder and one with none."""
    sequences = [*CODES, "S005/003", "S138/001"]
    files = {
        f"cohn-kanade-images/{key}/{key.replace('/', '_')}_0000000{frame}.png": 5 * number + frame
        for number, key in enumerate(sequences)
        for frame in range(1, 6)
    }
    root = write_tree(files)
    for key, code in CODES.items():
        path = label(root, key)
        path.parent.mkdir(parents=True)
        path.write_text(f"   {code}.0000000e+00\n")
    (root / "Emotion" / "S005" / "003").mkdir()
    (root / "cohn-kanade-images" / "S005" / "001" / ".DS_Store").touch()
    return root


def label(root: Path, key: str, frame: int = 5) -> Path:
    return root / "Emotion" / key / f"{key.replace('/', '_')}_0000000{frame}_emotion.txt"


def test_the_last_three_frames_of_labelled_sequences(root: Path, faces) -> None:
    loaded = load(f"ckplus:{root}", image_size=48)
    assert loaded.class_counts() == {
        "anger": 0, "contempt": 3, "disgust": 3, "fear": 0, "happiness": 3, "sadness": 0, "surprise": 3,
    }  # fmt: skip
    assert [source[-12:-4] for source in loaded.sources[:3]] == ["00000003", "00000004", "00000005"]
    assert loaded.sources[0] == "cohn-kanade-images/S005/001/S005_001_00000003.png"
    assert loaded.images[2].equal(faces.images[5])
    assert loaded.subjects == ["S005"] * 6 + ["S138"] * 6
    assert loaded.notes == ["2 sequences without a label left out"]


def test_neutral_as_the_seventh_class(root: Path) -> None:
    loaded = load(f"ckplus:{root}", image_size=48, seventh="neutral", frames=2)
    assert loaded.classes[-1] == "neutral" and "contempt" not in loaded.classes
    assert loaded.class_counts()["neutral"] == 3
    assert loaded.class_counts()["surprise"] == 2
    first = loaded.sources[loaded.labels.tolist().index(6)]
    assert first.endswith("S005_001_00000001.png")
    assert "1 sequence with other expressions" in loaded.notes[1]


def test_neutral_needs_the_beginning_of_the_sequence(root: Path) -> None:
    (root / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000001.png").unlink()
    assert len(load(f"ckplus:{root}", image_size=48)) == 12
    with pytest.raises(ValueError, match="S005/001 does not begin with its first frame"):
        load(f"ckplus:{root}", image_size=48, seventh="neutral")


def test_six_or_any_classes(root: Path) -> None:
    assert len(load(f"ckplus:{root}", image_size=48, seventh="none")) == 9
    chosen = load(f"ckplus:{root}", image_size=48, classes=("neutral", "contempt"), frames=1)
    assert chosen.class_counts() == {"neutral": 1, "contempt": 1}
    with pytest.raises(ValueError, match="seventh must be one of"):
        load(f"ckplus:{root}", image_size=48, seventh="boredom")


def test_labels_that_disagree_with_the_images(root: Path) -> None:
    path = label(root, "S005/001")
    path.rename(label(root, "S005/001", frame=9))
    with pytest.raises(ValueError, match=r"00000009_emotion\.txt labels a frame that is not in"):
        load(f"ckplus:{root}", image_size=48)
    label(root, "S005/001", frame=9).rename(path.parent / "S005_002_00000005_emotion.txt")
    with pytest.raises(ValueError, match="the label of another sequence"):
        load(f"ckplus:{root}", image_size=48)


def test_a_label_without_a_sequence(root: Path) -> None:
    path = label(root, "S200/001")
    path.parent.mkdir(parents=True)
    path.write_text("   1.0000000e+00\n")
    with pytest.raises(ValueError, match="labels a sequence that is not in"):
        load(f"ckplus:{root}", image_size=48)


@pytest.mark.parametrize("text", ["", "   8.0000000e+00\n", "fear\n"])
def test_codes_that_mean_nothing(root: Path, text: str) -> None:
    label(root, "S005/001").write_text(text)
    with pytest.raises(ValueError, match=r"S005_001_00000005_emotion\.txt: the label must be"):
        load(f"ckplus:{root}", image_size=48)


def test_two_labels(root: Path) -> None:
    label(root, "S005/001", frame=4).write_text("   1.0000000e+00\n")
    with pytest.raises(ValueError, match="has 2 label files"):
        load(f"ckplus:{root}", image_size=48)


def test_a_frame_of_another_sequence(root: Path) -> None:
    folder = root / "cohn-kanade-images" / "S005" / "001"
    (folder / "S005_002_00000009.png").touch()
    with pytest.raises(ValueError, match=r"S005_002_00000009\.png: the name is not like S005_001"):
        load(f"ckplus:{root}", image_size=48)


def test_a_missing_half_is_named(root: Path) -> None:
    (root / "Emotion").rename(root / "Labels")
    with pytest.raises(ValueError, match="has no folder Emotion"):
        load(f"ckplus:{root}", image_size=48)


def test_sequences_that_lack_frames_may_be_left_out(root: Path) -> None:
    images = root / "cohn-kanade-images"
    (images / "S005" / "001" / "S005_001_00000005.png").unlink()
    for frame in (1, 2, 3):
        (images / "S138" / "004" / f"S138_004_0000000{frame}.png").unlink()
    with pytest.raises(
        ValueError, match=r"labels a frame that is not in .*; incomplete=leave_out leaves such"
    ):
        load(f"ckplus:{root}", image_size=48)
    loaded = load(f"ckplus:{root}", image_size=48, incomplete="leave_out")
    assert loaded.class_counts()["happiness"] == loaded.class_counts()["contempt"] == 3
    assert len(loaded) == 6
    assert loaded.notes[1].startswith("left out: ") and "labels a frame" in loaded.notes[1]
    assert "S138/004 has 2 frames, at least 3 are needed" in loaded.notes[2]


def test_a_label_as_a_windows_editor_leaves_it(root: Path) -> None:
    label(root, "S005/001").write_bytes(b"\xef\xbb\xbf   3.0000000e+00\r\n")
    assert load(f"ckplus:{root}", image_size=48).class_counts()["disgust"] == 3
