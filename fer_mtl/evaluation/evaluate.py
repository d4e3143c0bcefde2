"""Everything that is measured on tested faces, as report.json holds it."""

from __future__ import annotations

from typing import Any

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.calibration import calibration
from fer_mtl.evaluation.gates import gate_statistics
from fer_mtl.evaluation.metrics import confusion_matrix, recognition_figures
from fer_mtl.evaluation.predict import predict
from fer_mtl.evaluation.predictions import Predictions, make_predictions
from fer_mtl.evaluation.quality import Judge, measure_synthesis
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import FeatureNetwork


def figures_of(predictions: Predictions) -> dict[str, Any]:
    """Recognition figures and calibration of predictions."""
    matrix = confusion_matrix(predictions.predicted, predictions.label, len(predictions.classes))
    return {
        **recognition_figures(matrix, predictions.classes),
        "calibration": calibration(predictions),
    }


def evaluate(
    model: FERSNet,
    faces: FaceSet,
    *,
    judge: Judge | None = None,
    identity: FeatureNetwork | None = None,
    views: str = "center",
) -> tuple[dict[str, Any], Predictions]:
    """Recognition, gates and, where the model can, synthesis on ``faces``; and what was said of every image.

    ``judge`` reads the expressions of the synthesised faces in place of the model itself; ``identity`` tells
    whether they still show the same person; ``views`` says what is recognised of a face, see
    :func:`fer_mtl.evaluation.predict.predict`.

    Raises ``ValueError`` for no face at all.
    """
    if not len(faces):
        raise ValueError("faces must hold at least one image to evaluate on, got none")
    predictions = make_predictions(predict(model, faces.images, views=views), faces)
    figures = figures_of(predictions)
    figures["gates"] = gate_statistics(model, faces)
    figures["synthesis"] = (
        measure_synthesis(model, faces, judge=judge, identity=identity) if model.config["synthesis"] else None
    )
    return figures, predictions
