from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_mtl.data import FaceSet, load

# session, clip, view, emotion
SESSIONS = (
    ("1871", "S001-001", 0, "1"),
    ("1872", "S001-002", 2, "6"),
    ("1873", "S021-001", 1, "4"),
    ("1874", "S053-007", 0, "8"),
    ("1875", "S053-008", 0, None),
)


def write_labels(root: Path) -> None:
    for session, clip, view, emotion in SESSIONS:
        folder = root / "Sessions" / session
        folder.mkdir(parents=True, exist_ok=True)
        tag = f'<Metadata Name="Emotion" Value="{emotion}" />' if emotion else ""
        (folder / f"{clip}.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Annotation><Metadata Name="Subject" Value="1" />{tag}'
            "</Annotation>\n"
        )
        (folder / f"{clip}-aucs.xml").write_text("<ActionUnits/>\n")
        (folder / "session.xml").write_text(
            f'<?xml version="1.0"?>\n<session sessionId="{session}" view="{view}"/>\n'
        )


@pytest.fixture
def root(write_tree: Callable[[dict[str, int]], Path]) -> Path:
    """Five sessions with extracted frames, as `fer-mtl prepare` leaves them."""
    files = {
        f"Sessions/{session}/{clip}/{frame:05d}.png": 5 * i + frame
        for i, (session, clip, _, _) in enumerate(SESSIONS)
        for frame in range(5)
    }
    root = write_tree(files)
    write_labels(root)
    return root


def test_extracted_frames(root: Path) -> None:
    loaded = load(f"mmi:{root}", image_size=48)
    assert loaded.sources == [
        f"Sessions/{s}/0000{frame}.png" for s in ("1871/S001-001", "1872/S001-002") for frame in (1, 2, 3)
    ]
    assert [loaded.classes[i] for i in loaded.labels] == ["anger"] * 3 + ["surprise"] * 3
    assert set(loaded.subjects) == {"S001"}
    assert loaded.notes == [
        "1 session of other views left out", "2 sessions without one of the six expressions left out",
    ]  # fmt: skip


def test_profiles_on_request(root: Path) -> None:
    loaded = load(f"mmi:{root}", image_size=48, views=("profile",), frames=1)
    assert loaded.sources == ["Sessions/1873/S021-001/00002.png"]
    with pytest.raises(ValueError, match="views must be some of"):
        load(f"mmi:{root}", image_size=48, views=("above",))


def test_the_middle_frames_of_videos(tmp_path: Path, faces: FaceSet) -> None:
    cv2 = pytest.importorskip("cv2")
    write_labels(tmp_path)
    for i, (session, clip, _, _) in enumerate(SESSIONS):
        path = tmp_path / "Sessions" / session / f"{clip}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 64))
        for frame in range(7):
            face = faces.images[7 * i + frame].permute(1, 2, 0).numpy()
            writer.write(np.pad(face, ((4, 5), (4, 5), (0, 0)))[..., ::-1].copy())
        writer.release()
    loaded = load(f"mmi:{tmp_path}", image_size=56)  # stored at 64 x 64
    assert loaded.sources[:3] == [f"Sessions/1871/S001-001.avi, frame {i}" for i in (2, 3, 4)]
    assert loaded.images.shape[2] == 64
    expected = faces.images[3].float()
    assert (loaded.images[1, :, 4:59, 4:59].float() - expected).abs().mean() < 6
    assert (loaded.images[0, :, 4:59, 4:59].float() - expected).abs().mean() > 6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "session.xml").write_text("<session/>"),
            "session.xml has no attribute 'view'",
        ),
        (lambda folder: (folder / "session.xml").write_text('<s view="5"/>'), "view must be one of 0, 1, 2"),
        (lambda folder: (folder / "S001-001.xml").write_text("<a"), r"S001-001\.xml is not XML"),
        (lambda folder: (folder / "S001-001.xml").unlink(), "must have one label S001-001.xml, got none"),
        (
            lambda folder: (folder / "S001-002.xml").write_text("<a/>"),
            "must have one label .*, got S001-001.xml, S",
        ),
        (
            lambda folder: (folder / "S001-001").rename(folder / "other"),
            "1871 has neither a video nor the folder S001-001 of its frames",
        ),
    ],
)
def test_sessions_that_do_not_follow_the_layout(
    root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(root / "Sessions" / "1871")
    with pytest.raises(ValueError, match=message):
        load(f"mmi:{root}", image_size=48)


def test_sessions_that_lack_frames_may_be_left_out(root: Path) -> None:
    for frame in sorted((root / "Sessions" / "1871" / "S001-001").iterdir())[2:]:
        frame.unlink()
    with pytest.raises(ValueError, match="S001-001 has 2 frames"):
        load(f"mmi:{root}", image_size=48)
    loaded = load(f"mmi:{root}", image_size=48, incomplete="leave_out")
    assert set(loaded.sources) == {f"Sessions/1872/S001-002/0000{frame}.png" for frame in (1, 2, 3)}
    assert "S001-001 has 2 frames, at least 3 are needed" in loaded.notes[-1]
