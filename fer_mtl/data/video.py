"""Single frames of video files, decoded by OpenCV (the optional extra `faces`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fer_mtl.data.images import ImageError

MP4_BEGINS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")  # names of parts a file may begin with
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm")


@dataclass(frozen=True)
class VideoFrame:
    """Frame `number` (from 0) of a video."""

    path: Path
    number: int

    def open(self) -> Image.Image:
        """The frame in mode "RGB". Raises ImageError naming the video when there is no such frame."""
        with _capture(self.path) as video:
            # Frame by frame: jumping to a position is off by some frames in files with few key frames.
            for _ in range(self.number + 1):
                if not video.grab():
                    raise ImageError(f"{self.path}: the video has no frame {self.number}")
            good, pixels = video.retrieve()
        if not good:
            raise ImageError(f"{self.path}: frame {self.number} cannot be decoded")
        return Image.fromarray(pixels[..., ::-1].copy())


def count_frames(path: Path) -> int:
    """How many frames a video really has; its header may say something else. Raises ImageError for none, and
    for a file that was cut short: which frames lie in its middle nobody knows."""
    count = 0
    with _capture(path) as video:
        while video.grab():
            count += 1
        _check_end(path, video, count)
    return count


def every(path: Path, step: int) -> Iterator[tuple[int, float | None, Image.Image]]:
    """Number, second and picture (mode "RGB") of every ``step``-th frame of a video, from the first on; the
    second is None where the video tells neither the frames' times nor how many it shows in one.

    Raises ImageError for a file that is no video, for one of the frames that cannot be decoded, and at the
    end of a file that was cut short.
    """
    with _capture(path) as video:
        number = 0
        while video.grab():
            if number % step == 0:
                good, pixels = video.retrieve()
                if not good:
                    raise ImageError(f"{path}: frame {number} cannot be decoded")
                yield number, _second(video, number), Image.fromarray(pixels[..., ::-1].copy())
            number += 1
        _check_end(path, video, number)


def _check_end(path: Path, video: Any, frames: int) -> None:
    """ImageError for a video without frames, and for one that has fewer than its header says because its file
    ends too early, as of a download that was stopped. Only both tell: headers may guess, sizes be wrong."""
    import cv2

    if not frames:
        raise ImageError(f"{path}: not a readable video")
    if _cut_short(path) and frames < (told := int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
        raise ImageError(f"{path}: the file is cut short, it has {frames} of {told} frames")


def _cut_short(path: Path) -> bool:
    """Whether a file is an AVI or MP4 and ends before one of its parts does. Each part begins with its size
    and name, in AVI within one large part, in MP4 with the name last and the size counting these."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = file.read(8)
        avi, place = begin[:4] == b"RIFF", 0
        if not avi and begin[4:] not in MP4_BEGINS:
            return False
        while place + 16 <= size:
            file.seek(place)
            head = file.read(16)
            if avi:
                length = int.from_bytes(head[4:8], "little")
                if length in (0, 2**32 - 1):  # of a recorder that could not go back to fill it in
                    return False
                length += 8
            else:
                length = int.from_bytes(head[:4], "big")
                if length == 1:
                    length = int.from_bytes(head[8:16], "big")
                if length < 8:  # 0: it reaches to the end, wherever that is
                    return False
            place += length
    return place > size


def _second(video: Any, number: int) -> float | None:
    """When the frame that was grabbed last is shown. Telephones and browsers record no steady number of
    frames a second: it is counted from the number only where the file does not hold the frames' times."""
    import cv2

    told = float(video.get(cv2.CAP_PROP_POS_MSEC)) / 1000
    if told > 0:
        return told
    rate = float(video.get(cv2.CAP_PROP_FPS))
    return number / rate if rate > 0 else None


@contextmanager
def _capture(path: Path) -> Iterator[Any]:
    import cv2  # here, since it is optional

    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise ImageError(f"{path}: not a readable video")
        yield video
    finally:
        video.release()
