from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.faces.detector import make_detector
from fer_mtl.faces.face import Face
from fer_mtl.faces.whole import WholePicture


def test_detectors_by_name() -> None:
    assert isinstance(make_detector("whole"), WholePicture)
    with pytest.raises(
        ValueError, match=r"detector must be one of haar, whole or a file FILE\.onnx, got 'hog'"
    ):
        make_detector("hog")


def test_models_and_cascades_need_opencv_or_a_file(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    with pytest.raises(FileNotFoundError, match=r"detector model does not exist: .*gone\.onnx"):
        make_detector(str(tmp_path / "gone.onnx"))


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_a_face_has_two_or_five_points_or_none(count: int) -> None:
    with pytest.raises(ValueError, match=f"points must be none, two or five, got {count}"):
        Face((0, 0, 1, 1), ((0.0, 0.0),) * count)
