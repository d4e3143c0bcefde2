"""Single frames of video files, decoded by OpenCV (the optional extra `faces`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fer_mtl.data.images import ImageError

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
    """How many frames a video really has; its header may say something else. Raises ImageError for none."""
    count = 0
    with _capture(path) as video:
        while video.grab():
            count += 1
    if not count:
        raise ImageError(f"{path}: not a readable video")
    return count


def every(path: Path, step: int) -> Iterator[tuple[int, float | None, Image.Image]]:
    """Number, second and picture (mode "RGB") of every ``step``-th frame of a video, from the first on; the
    second is None where the video tells neither the frames' times nor how many it shows in one.

    Raises ImageError for a file that is no video and for one of the frames that cannot be decoded.
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
    if not number:
        raise ImageError(f"{path}: not a readable video")


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
