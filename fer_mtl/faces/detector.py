"""What finds faces: the protocol that `prepare` relies on, and the detectors by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fer_mtl.data.images import ImageError

Point = tuple[float, float]

DETECTORS = ("haar", "whole")
"""The detectors that need no file of yours; a file FILE.onnx is one, too."""
DETECTOR_HELP = "haar (OpenCV's), whole (each picture is one cropped face) or a YuNet model FILE.onnx"


@dataclass(frozen=True)
class Face:
    """A face in a picture; coordinates in pixels from the left and the top.

    box: left, top, width, height
    points: the two eyes, or the two eyes, the nose and the two corners of the mouth, of each pair the one
        further to the left in the picture first; none where they were not found
    score: how sure the detector is, in units of its own
    """

    box: tuple[float, float, float, float]
    points: tuple[Point, ...] = ()
    score: float = 1.0

    def __post_init__(self) -> None:
        if len(self.points) not in (0, 2, 5):
            raise ValueError(f"points must be none, two or five, got {len(self.points)}")

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


class Detector(Protocol):
    """Anything with this method serves."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """The faces in a picture, uint8 RGB [height, width, 3], in any order; empty where there is none.
        Raises ImageError for a picture that it cannot search."""


@contextmanager
def named(error: type[Exception]) -> Iterator[None]:
    """Raise ImageError for an error of OpenCV: one odd picture must not end the search of all others."""
    try:
        yield
    except error as found:
        raise ImageError(f"OpenCV cannot search it for faces: {found}") from found


def make_detector(name: str) -> Detector:
    """A detector by name: "haar" (OpenCV's cascades), "whole" (the picture is a face already) or the path of
    a YuNet model, FILE.onnx.

    Raises ValueError for an unknown name, a file that is no such model or an OpenCV without cascades, and
    ModuleNotFoundError without OpenCV.
    """
    if name == "haar":
        from fer_mtl.faces.haar import HaarDetector

        return HaarDetector()
    if name == "whole":
        from fer_mtl.faces.whole import WholePicture

        return WholePicture()
    if name.lower().endswith(".onnx"):
        from fer_mtl.faces.yunet import YuNetDetector

        return YuNetDetector(Path(name))
    raise ValueError(f"detector must be one of {', '.join(DETECTORS)} or a file FILE.onnx, got {name!r}")
