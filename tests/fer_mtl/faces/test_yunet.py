from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fer_mtl.data.images import ImageError
from fer_mtl.faces.yunet import YuNetDetector

ROW = [10, 20, 30, 40, 15, 30, 33, 31, 24, 40, 17, 50, 32, 51, 0.9]


class FakeNetwork:
    """Stands in for OpenCV's FaceDetectorYN: remembers what it is given, finds what it is told to."""

    rows: Any = None

    def __init__(self) -> None:
        self.size: tuple[int, int] = (0, 0)
        self.seen: np.ndarray | None = None

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, image: np.ndarray) -> tuple[int, Any]:
        assert image.shape[:2] == self.size[::-1] and image.flags.c_contiguous
        self.seen = image
        return 1, self.rows


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> FakeNetwork:
    network = FakeNetwork()
    fake = SimpleNamespace(
        error=RuntimeError,
        setNumThreads=lambda n: None,
        FaceDetectorYN=SimpleNamespace(create=lambda *arguments: network),
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)
    return network


def test_rows_become_faces_with_five_points(network: FakeNetwork, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    detector = YuNetDetector(tmp_path / "m.onnx")
    image = np.zeros((60, 80, 3), np.uint8)
    image[..., 0] = 255
    assert detector.detect(image) == []
    assert network.seen is not None and network.seen[0, 0].tolist() == [0, 0, 255]  # BGR
    network.rows = np.array([ROW], np.float32)
    (face,) = detector.detect(image)
    assert face.box == (10, 20, 30, 40)
    assert face.points == ((15, 30), (33, 31), (24, 40), (17, 50), (32, 51))
    assert face.score == pytest.approx(0.9)


def test_a_picture_that_opencv_does_not_take(
    network: FakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: np.ndarray) -> None:
        raise RuntimeError("(-215:Assertion failed)")

    (tmp_path / "m.onnx").touch()
    monkeypatch.setattr(network, "detect", fail)
    with pytest.raises(ImageError, match=r"cannot search it for faces: \(-215"):
        YuNetDetector(tmp_path / "m.onnx").detect(np.zeros((1, 1, 3), np.uint8))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"m\.onnx is not a face detector OpenCV can run"):
        YuNetDetector(tmp_path / "m.onnx")
