"""What a model said of every tested image, as a table that outlives the model: predictions.csv.

Columns: source, subject, label, predicted, then the probability of each expression under its name. Paired
tests and calibration are computed from it, so that two runs can be compared image by image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fer_mtl.data import FaceSet

FIXED = ("source", "subject", "label", "predicted")


@dataclass(frozen=True)
class Predictions:
    """``label`` int64 ``[n]`` indexes ``classes``; ``probability`` float64 ``[n, E]``."""

    classes: tuple[str, ...]
    source: list[str]
    subject: list[str]
    label: torch.Tensor
    probability: torch.Tensor

    def __len__(self) -> int:
        return len(self.source)

    @property
    def predicted(self) -> torch.Tensor:
        """int64 ``[n]``."""
        return self.probability.argmax(1)

    @property
    def correct(self) -> torch.Tensor:
        """bool ``[n]``."""
        return self.predicted == self.label


def make_predictions(logits: torch.Tensor, faces: FaceSet) -> Predictions:
    """From logits float ``[n, E]`` for the images of ``faces``, in order."""
    probability = logits.double().softmax(1)
    return Predictions(faces.classes, list(faces.sources), list(faces.subjects), faces.labels, probability)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """All of them. ``ValueError`` when they differ in classes or there is none."""
    if len({part.classes for part in parts}) != 1:
        raise ValueError(f"predictions must agree in classes, got {[part.classes for part in parts]}")
    return Predictions(
        parts[0].classes,
        [name for part in parts for name in part.source],
        [name for part in parts for name in part.subject],
        torch.cat([part.label for part in parts]),
        torch.cat([part.probability for part in parts]),
    )


def to_csv(predictions: Predictions) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIXED, *predictions.classes])
    names = predictions.classes
    for i, probability in enumerate(predictions.probability.tolist()):
        label, said = names[int(predictions.label[i])], names[int(predictions.predicted[i])]
        numbers = [f"{value:.9g}" for value in probability]
        writer.writerow([predictions.source[i], predictions.subject[i], label, said, *numbers])
    return text.getvalue()


def read_csv(path: Path) -> Predictions:
    """``FileNotFoundError`` or ``ValueError`` naming the file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no predictions at {path}; the run is not finished, or they were removed: "
            f"fer-mtl train --resume {path.parent} makes them"
        )
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if tuple(header[: len(FIXED)]) != FIXED or not rows:
            raise ValueError(f"columns {', '.join(FIXED)}, ... are needed")
        classes = tuple(header[len(FIXED) :])
        return Predictions(
            classes,
            [row[0] for row in rows],
            [row[1] for row in rows],
            torch.tensor([classes.index(row[2]) for row in rows]),
            torch.tensor(
                [[float(value) for value in row[len(FIXED) :]] for row in rows], dtype=torch.float64
            ),
        )
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of predictions: {error}") from error
