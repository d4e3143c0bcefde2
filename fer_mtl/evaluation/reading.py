"""Faces in pictures and videos as a model takes them: found by a detector, aligned; and the expressions read
in them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from fer_mtl.data.faceset import stored_side
from fer_mtl.data.images import fit
from fer_mtl.data.video import every
from fer_mtl.evaluation.pictures import captioned
from fer_mtl.evaluation.plots import timeline
from fer_mtl.evaluation.predict import predict
from fer_mtl.evaluation.report import percent
from fer_mtl.faces import Detector, Face, align
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.words import counted

COLUMNS = ("file", "picture", "frame", "second", "face", "left", "top", "width", "height", "expression")


@dataclass(frozen=True)
class Reading:
    """What was read in one face. probability: of every expression that the model knows, in its order; stored:
    the face as it was read, aligned, uint8 ``[C, S, S]``."""

    face: Face
    probability: tuple[float, ...]
    stored: torch.Tensor = field(repr=False, compare=False)

    def ranked(self, classes: Sequence[str]) -> list[tuple[str, float]]:
        """The expressions with their probabilities, the most probable first."""
        return sorted(zip(classes, self.probability, strict=True), key=lambda pair: -pair[1])


@dataclass(frozen=True)
class Frame:
    """What was read in one frame of a video; second is None where the video does not say."""

    number: int
    second: float | None
    image: Image.Image
    readings: list[Reading]


def described(shares: Sequence[tuple[str, float]]) -> str:
    """Names with their shares of one: "fear 93.1 %, anger 4.0 %"."""
    return ", ".join(f"{name} {percent(value)}" for name, value in shares)


def captions(readings: Sequence[Reading], classes: Sequence[str]) -> list[str]:
    """The most probable expression of each, "fear 93.1 %", with its number where there are several."""
    said = [described(reading.ranked(classes)[:1]) for reading in readings]
    return [f"{number}: {text}" for number, text in enumerate(said, 1)] if len(said) > 1 else said


def marked(image: Image.Image, readings: Sequence[Reading], classes: Sequence[str]) -> Image.Image:
    """The picture with a box around each face and what was read in it."""
    faces = [reading.face for reading in readings]
    return captioned(image, zip(faces, captions(readings, classes), strict=True))


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
        stored = aligned(self.model, image, faces)
        probability = predict(self.model, stored, views=self.views).double().softmax(1).tolist()
        return [
            Reading(face, tuple(row), each)
            for face, row, each in zip(faces, probability, stored, strict=True)
        ]

    def frames(self, path: Path, step: int) -> Iterator[Frame]:
        """Of every ``step``-th frame of a video. Raises ImageError as :func:`fer_mtl.data.video.every`."""
        for number, second, image in every(path, step):
            yield Frame(number, second, image, self.read(image))


class Table:
    """The rows of readings.csv; a picture without a face has one too, its face is number 0. ``picture`` lies
    beside the table and shows what was read: the marked picture, or a video's plot over time."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes, self.rows = classes, [[*COLUMNS, *classes]]

    def add(
        self,
        path: Path,
        readings: Sequence[Reading],
        frame: int | None = None,
        second: float | None = None,
        picture: str = "",
    ) -> None:
        place = [str(path), picture]
        place += ["" if frame is None else str(frame), "" if second is None else f"{second:.3f}"]
        if not readings:
            self.rows.append([*place, "0", *[""] * (len(self.rows[0]) - len(place) - 1)])
        for number, reading in enumerate(readings, 1):
            box = [f"{value:.1f}" for value in reading.face.box]
            probability = [f"{value:.9g}" for value in reading.probability]
            self.rows.append([*place, str(number), *box, reading.ranked(self.classes)[0][0], *probability])

    def text(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.rows)
        return text.getvalue()


class Track:
    """The largest face of a video over time."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.said: Counter[str] = Counter()
        self._times: list[float] = []
        self._probability: list[Sequence[float]] = []
        self._unit = "seconds"

    def add(self, frame: Frame) -> None:
        if frame.second is None:
            self._unit = "frame"
        self._times.append(frame.number if frame.second is None else frame.second)
        missing = [float("nan")] * len(self.classes)
        self._probability.append(frame.readings[0].probability if frame.readings else missing)
        self.said.update(reading.ranked(self.classes)[0][0] for reading in frame.readings[:1])

    def summary(self) -> str:
        found = self.said.total()
        shares = [(name, count / found) for name, count in self.said.most_common()]
        return f"{counted(len(self._times), 'frame')} read, {found} with a face" + (
            f"; the largest shows {described(shares)} of the time" if found else ""
        )

    def figure(self) -> Figure:
        """The probability of every expression over time, with gaps where there is no face."""
        return timeline(self._times, self._probability, self.classes, self._unit)
