from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fer_mtl.data import FaceSet
from fer_mtl.data.images import ImageError
from fer_mtl.faces.haar import HaarDetector, pair_of_eyes

FACE = (100.0, 100.0, 100.0, 100.0)
LEFT, RIGHT = (120.0, 130.0, 20.0, 20.0), (160.0, 132.0, 20.0, 20.0)


@pytest.mark.parametrize(
    ("boxes", "eyes"),
    [
        ([RIGHT, LEFT], ((130.0, 140.0), (170.0, 142.0))),
        ([LEFT], ()),
        ([], ()),
        ([LEFT, (125.0, 130.0, 20.0, 20.0)], ()),  # both on one side
        ([(144.0, 130.0, 10.0, 10.0), (155.0, 130.0, 10.0, 10.0)], ()),  # too near each other
        ([LEFT, (160.0, 160.0, 20.0, 20.0)], ()),  # too far below
        ([LEFT, (150.0, 120.0, 45.0, 45.0)], ()),  # too large for a pair
        ([LEFT, RIGHT, (165.0, 142.0, 12.0, 12.0)], ((130.0, 140.0), (170.0, 142.0))),  # a nostril beside
    ],
)
def test_eyes_are_paired(boxes: list, eyes: tuple) -> None:
    assert pair_of_eyes(boxes, FACE) == eyes


def test_an_opencv_without_cascades_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(__version__="5.0.0", data=SimpleNamespace(), setNumThreads=lambda n: None)
    monkeypatch.setitem(sys.modules, "cv2", fake)
    with pytest.raises(ValueError, match=r"opencv-python-headless>=4\.8,<5: OpenCV 5\.0\.0 comes without"):
        HaarDetector()


def test_the_cascades_run(faces: FaceSet) -> None:
    """Whether they take a drawn face for one is not asked."""
    pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    detector = HaarDetector()
    assert detector.detect(np.full((120, 160, 3), 128, np.uint8)) == []
    with pytest.raises(ImageError, match="cannot search it for faces"):
        detector.detect(np.zeros((0, 0, 3), np.uint8))
    for shape in ((1, 5000), (5000, 1), (1, 1)):  # too thin to be reduced in proportion
        assert detector.detect(np.zeros((*shape, 3), np.uint8)) == []
    picture = np.pad(
        faces.images[0].permute(1, 2, 0).numpy().repeat(6, 0).repeat(6, 1), ((60, 60), (60, 60), (0, 0))
    )
    for face in detector.detect(picture):
        left, top, width, height = face.box
        assert left >= 0 <= top and left + width <= picture.shape[1] and top + height <= picture.shape[0]
        assert all(left < x < left + width and top < y < top + height for x, y in face.points)
