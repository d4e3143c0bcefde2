"""`FILE.onnx`: a YuNet face detector of yours, run by OpenCV; it finds five points of every face.

Source: W. Wu, H. Peng, S. Yu, "YuNet: a tiny millisecond-level face detector", Machine Intelligence Research
20, 2023. OpenCV's model zoo has such a file (face_detection_yunet); none comes with this package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_mtl.faces.face import Face, named

_SCORE, _OVERLAP, _MOST = 0.7, 0.3, 100


class YuNetDetector:
    """Faces with eyes, nose and corners of the mouth.

    Raises FileNotFoundError, and ValueError for a file that OpenCV does not take for such a model.
    """

    def __init__(self, model: Path) -> None:
        import cv2

        if not model.is_file():
            raise FileNotFoundError(f"detector model does not exist: {model}")
        self._error = cv2.error
        cv2.setNumThreads(1)  # pictures are spread over processes
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), _SCORE, _OVERLAP, _MOST)
        except cv2.error as error:
            raise ValueError(f"{model} is not a face detector OpenCV can run: {error}") from error

    def detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        with named(self._error):
            self._network.setInputSize((width, height))
            _, rows = self._network.detect(np.ascontiguousarray(image[..., ::-1]))  # it wants BGR
        faces = []
        for row in [] if rows is None else rows.tolist():
            # Box, then the person's right eye (to the left in the picture), left eye, nose, corners, score.
            points = tuple((row[i], row[i + 1]) for i in range(4, 14, 2))
            faces.append(Face((row[0], row[1], row[2], row[3]), points, row[14]))
        return faces
