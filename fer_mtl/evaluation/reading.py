"""Faces in pictures as a model takes them: found by a detector, aligned; and the expressions read in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from fer_mtl.data.faceset import stored_side
from fer_mtl.data.images import fit
from fer_mtl.evaluation.predict import predict
from fer_mtl.faces import Detector, Face, align
from fer_mtl.models.fersnet import FERSNet


@dataclass(frozen=True)
class Reading:
    """What was read in one face. probability: of every expression that the model knows, in its order."""

    face: Face
    probability: tuple[float, ...]

    def ranked(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """The expressions with their probabilities, the most probable first."""
        return sorted(zip(classes, self.probability, strict=True), key=lambda pair: -pair[1])


def find_faces(detector: Detector, image: Image.Image) -> list[Face]:
    """The faces of a picture in mode "L" or "RGB", the largest first; empty where none is found."""
    return sorted(detector.detect(np.asarray(image.convert("RGB"))), key=lambda face: -face.area)


def aligned(model: FERSNet, image: Image.Image, faces: Sequence[Face]) -> torch.Tensor:
    """One or more faces of a picture as stored faces uint8 ``[n, C, S, S]``, of the size the model takes."""
    side, channels = stored_side(model.config["image_size"]), model.config["in_channels"]
    return torch.from_numpy(np.stack([fit(align(image, face, side), side, channels) for face in faces]))


class Reader:
    """Finds the faces of a picture and reads their expressions.

    Args:
        model: reads faces that are aligned as `fer-mtl prepare` does it, so it should have learnt from such.
        detector: finds them.
        views: as in :func:`fer_mtl.evaluation.predict.predict`.
    """

    def __init__(self, model: FERSNet, detector: Detector, views: str = "center") -> None:
        self.model, self.detector, self.views = model, detector, views

    def read(self, image: Image.Image) -> list[Reading]:
        """Of a picture in mode "L" or "RGB", the largest face first; empty where none is found."""
        faces = find_faces(self.detector, image)
        if not faces:
            return []
        logits = predict(self.model, aligned(self.model, image, faces), views=self.views)
        probability = logits.double().softmax(1).tolist()
        return [Reading(face, tuple(row)) for face, row in zip(faces, probability, strict=True)]
