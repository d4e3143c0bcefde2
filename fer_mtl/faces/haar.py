"""`haar`: the cascades of Haar features that come with OpenCV, for faces and, inside them, eyes.

Source: P. Viola, M. Jones, "Rapid object detection using a boosted cascade of simple features", CVPR 2001.
OpenCV 5 has them no more: the extra `faces` asks for opencv-python-headless below 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fer_mtl.faces.face import Face, Point, named

Box = tuple[float, float, float, float]

_FACES = "haarcascade_frontalface_default.xml"
# The first finds eyes behind glasses too, but fewer of them.
_EYES = ("haarcascade_eye_tree_eyeglasses.xml", "haarcascade_eye.xml")
_SMALLEST = 1 / 8  # of the picture's shorter side
_LARGEST = 1000  # longer side in pixels at which a picture is searched: the time grows with its area


class HaarDetector:
    """Frontal faces, with the two eyes where they are found. ValueError for an OpenCV without cascades."""

    def __init__(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # pictures are spread over processes
        self._cv2 = cv2
        self._faces, *self._eyes = (self._load(name) for name in (_FACES, *_EYES))

    def _load(self, name: str) -> Any:
        path = Path(getattr(getattr(self._cv2, "data", None), "haarcascades", "")) / name
        if not (hasattr(self._cv2, "CascadeClassifier") and path.is_file()):
            raise ValueError(
                f"detector 'haar' needs opencv-python-headless>=4.8,<5: OpenCV {self._cv2.__version__} comes "
                f"without {name}"
            )
        return self._cv2.CascadeClassifier(str(path))

    def detect(self, image: np.ndarray) -> list[Face]:
        with named(self._cv2.error):
            return self._detect(image)

    def _detect(self, image: np.ndarray) -> list[Face]:
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        factor = max(1.0, max(grey.shape) / _LARGEST)
        if factor > 1:
            size = max(1, round(grey.shape[1] / factor)), max(1, round(grey.shape[0] / factor))
            grey = self._cv2.resize(grey, size, interpolation=self._cv2.INTER_AREA)
        grey = self._cv2.equalizeHist(grey)
        smallest = max(20, int(min(grey.shape) * _SMALLEST))
        boxes = self._faces.detectMultiScale(grey, 1.1, 5, minSize=(smallest, smallest))
        faces = []
        for box in (_floats(box) for box in boxes):
            left, top, width, height = (factor * v for v in box)
            eyes = tuple((factor * x, factor * y) for x, y in self._find_eyes(grey, box))
            faces.append(Face((left, top, width, height), eyes))
        return faces

    def _find_eyes(self, grey: np.ndarray, face: Box) -> tuple[Point, ...]:
        left, top, width, height = (int(v) for v in face)
        upper = grey[top : top + int(0.6 * height), left : left + width]
        smallest = max(8, width // 10)
        for cascade in self._eyes:
            boxes = cascade.detectMultiScale(upper, 1.05, 3, minSize=(smallest, smallest))
            found = [(x + left, y + top, w, h) for x, y, w, h in (_floats(box) for box in boxes)]
            eyes = pair_of_eyes(found, face)
            if eyes:
                return eyes
        return ()


def pair_of_eyes(boxes: Sequence[Box], face: Box) -> tuple[Point, ...]:
    """The centres of the two boxes that fit best as eyes, the left one first; empty when no two do.

    Eyes lie on both sides of the face's middle, a quarter to two thirds of its width apart, at most a sixth
    of it above one another, and are alike in size.
    """
    middle = face[0] + face[2] / 2
    best: tuple[float, tuple[Point, ...]] = (0.0, ())
    for one, two in combinations(sorted(boxes), 2):
        (ax, ay), (bx, by) = a, b = _centre(one), _centre(two)
        apart, tilt = (bx - ax) / face[2], abs(by - ay) / face[2]
        alike = min(one[2], two[2]) / max(one[2], two[2])
        if ax < middle < bx and 0.25 <= apart <= 0.67 and tilt <= 1 / 6 and alike >= 0.5:
            symmetry = 1 - abs((ax + bx) / 2 - middle) / face[2]
            best = max(best, (alike * symmetry - tilt, (a, b)))
    return best[1]


def _centre(box: Box) -> Point:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _floats(box: Sequence[Any]) -> Box:
    left, top, width, height = (float(v) for v in box)
    return left, top, width, height
