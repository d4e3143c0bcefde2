from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from fer_mtl.data.images import ImageError
from fer_mtl.data.video import VideoFrame, count_frames, every

cv2 = pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six frames of 32 x 48, each brighter than the one before and red above, blue below."""
    path = tmp_path / "clip ü.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (48, 32))
    for level in range(6):
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[:16, :, 2] = frame[16:, :, 0] = 40 * level
        writer.write(frame)
    writer.release()
    return path


def test_frames_are_counted_and_read_in_rgb(video: Path) -> None:
    assert count_frames(video) == 6
    image = VideoFrame(video, 4).open()
    assert (image.mode, image.size) == ("RGB", (48, 32))
    red, _, blue = image.getpixel((24, 4))
    assert abs(red - 160) < 12 and blue < 12
    red, _, blue = image.getpixel((24, 28))
    assert abs(blue - 160) < 12 and red < 12


def test_what_is_not_there_is_named(video: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the video has no frame 6"):
        VideoFrame(video, 6).open()
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"nothing")
    for path in (broken, tmp_path / "gone.avi"):
        with pytest.raises(ImageError, match=f"{path.name}: not a readable video"):
            count_frames(path)


def with_its_table_first(path: Path) -> bytes:
    """An MP4 file as it is written for the web: its parts are size and name, then content; the table of where
    frames lie ("stco" in "moov") stands before them ("mdat")."""
    content, parts, place = path.read_bytes(), {}, 0
    while place < len(content):
        size, name = struct.unpack(">I4s", content[place : place + 8])
        parts[name], place = bytearray(content[place : place + size]), place + size
    table = parts.pop(b"moov")
    at = table.index(b"stco") + 8
    (count,) = struct.unpack(">I", table[at : at + 4])
    where = struct.unpack(f">{count}I", table[at + 4 : at + 4 + 4 * count])
    table[at + 4 : at + 4 + 4 * count] = struct.pack(f">{count}I", *(offset + len(table) for offset in where))
    return bytes(parts.pop(b"ftyp") + table + b"".join(parts.values()))


def test_a_file_that_was_cut_short_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """The frames in the middle of what was left were taken for those in the middle of the video."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 64, 64, 3), np.uint8)
    for name, code, pictures in (("cut.avi", "MJPG", b"movi"), ("cut.mp4", "mp4v", b"mdat")):
        cut = tmp_path / name
        writer = cv2.VideoWriter(str(cut), cv2.VideoWriter_fourcc(*code), 25, (64, 64))
        for frame in frames:
            writer.write(frame)
        writer.release()
        whole = cut.read_bytes() if name == "cut.avi" else with_its_table_first(cut)
        cut.write_bytes(whole)
        assert count_frames(cut) == 6
        start = whole.index(pictures)
        cut.write_bytes(whole[: start + (len(whole) - start) // 2])
        said = re.compile(rf"{name}: the file is cut short, it has ([1-5]) of 6 frames")
        with pytest.raises(ImageError, match=said) as error:
            count_frames(cut)
        found: list[int] = []
        with pytest.raises(ImageError, match=said):
            for number, _, _ in every(cut, 1):
                found.append(number)
        left = said.search(str(error.value))
        assert left is not None and found == list(range(int(left[1])))


def test_a_header_that_guesses_the_frames_is_no_cut(tmp_path: Path) -> None:
    """That of Matroska and WebM has a duration, of which frames at an even pace are guessed."""
    path = tmp_path / "clip.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (48, 32))
    for _ in range(6):
        writer.write(np.zeros((32, 48, 3), np.uint8))
    writer.release()
    duration = re.compile(rb"(?<=\x44\x89\x88).{8}", re.DOTALL)
    content, count = duration.subn(struct.pack(">d", 10_000.0), path.read_bytes())
    path.write_bytes(content)
    assert count == 1 and cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 250
    assert count_frames(path) == len(list(every(path, 1))) == 6


def test_every_third_frame_has_its_number_and_second(video: Path, tmp_path: Path) -> None:
    found = list(every(video, 3))
    assert [(number, second) for number, second, _ in found] == [(0, 0.0), (3, pytest.approx(0.12))]
    assert np.array_equal(np.asarray(found[1][2]), np.asarray(VideoFrame(video, 3).open()))
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"broken\.avi: not a readable video"):
        next(every(broken, 1))


def test_the_seconds_are_those_of_the_frames(video: Path, tmp_path: Path) -> None:
    """Telephones and browsers record as many frames a second as they get."""
    path = tmp_path / "clip.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (48, 32))
    for _ in range(6):
        writer.write(np.zeros((32, 48, 3), np.uint8))
    writer.release()
    # A block of Matroska: track 1, the time in milliseconds, flags, and here a JPEG.
    steady, times = path.read_bytes(), iter((0, 40, 500, 1000, 1700, 9000))
    block = re.compile(rb"\x81..\x80(?=\xff\xd8)", re.DOTALL)
    changed, count = block.subn(lambda _: b"\x81" + next(times).to_bytes(2, "big") + b"\x80", steady)
    assert count == 6
    path.write_bytes(changed)
    assert [second for _, second, _ in every(path, 2)] == pytest.approx([0.0, 0.5, 1.7])


def test_seconds_are_counted_where_a_video_does_not_tell_them(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Untold:
        rate = 25.0

        def __init__(self, path: str) -> None:
            self._video = real(path)

        def get(self, what: int) -> float:
            return {cv2.CAP_PROP_POS_MSEC: 0.0, cv2.CAP_PROP_FPS: self.rate}[what]

        def __getattr__(self, name: str) -> object:
            return getattr(self._video, name)

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Untold)
    assert [second for _, second, _ in every(video, 3)] == [0.0, pytest.approx(0.12)]
    Untold.rate = 0.0
    assert [second for _, second, _ in every(video, 3)] == [None, None]
