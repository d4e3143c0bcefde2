"""What finds faces: the protocol that `prepare` relies on, and the detectors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from fer_mtl.faces.face import Face

DETECTORS = ("haar", "whole")
"""The detectors that need no file of yours; a file FILE.onnx is one, too."""
DETECTOR_HELP = "haar (OpenCV's), whole (each picture is one cropped face) or a YuNet model FILE.onnx"


class Detector(Protocol):
    """Anything with this method serves."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """The faces in a picture, uint8 RGB [height, width, 3], in any order; empty where there is none.
        Raises ImageError for a picture that it cannot search."""


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
