"""How far a recogniser's confidence can be trusted."""

from __future__ import annotations

from typing import Any, Literal

from torch.nn.functional import one_hot
from torchmetrics.functional.classification import multiclass_calibration_error

from fer_mtl.evaluation.predictions import Predictions

BINS = 15


def calibration(predictions: Predictions, bins: int = BINS) -> dict[str, Any]:
    """Expected and maximal calibration error, Brier score, log loss, and the bins of a reliability plot.

    The expected calibration error is the mean, over the images, of |accuracy - confidence| in the bin that an
    image's confidence falls into, ``bins`` bins of equal width (Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017). Empty bins are left out of ``reliability``.
    """
    probability, label = predictions.probability, predictions.label
    confidence, correct = probability.amax(1), predictions.correct

    def error(norm: Literal["l1", "max"]) -> float:
        return float(
            multiclass_calibration_error(
                probability.float(), label, num_classes=probability.shape[1], n_bins=bins, norm=norm
            )
        )

    number = (confidence * bins).long().clamp(max=bins - 1)
    reliability = [
        {
            "confidence": float(confidence[number == b].mean()),
            "accuracy": float(correct[number == b].double().mean()),
            "images": int((number == b).sum()),
        }
        for b in range(bins)
        if bool((number == b).any())
    ]
    truth = one_hot(label, probability.shape[1]).double()
    return {
        "ece": error("l1"),
        "mce": error("max"),
        "brier": float((probability - truth).square().sum(1).mean()),
        "log_loss": float(-probability.gather(1, label[:, None]).clamp(min=1e-12).log().mean()),
        "mean_confidence": float(confidence.mean()),
        "reliability": reliability,
    }
