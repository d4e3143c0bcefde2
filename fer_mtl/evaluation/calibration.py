"""How far a recogniser's confidence can be trusted."""

from __future__ import annotations

from typing import Any

from torch.nn.functional import one_hot

from fer_mtl.evaluation.predictions import Predictions

BINS = 15


def calibration(predictions: Predictions, bins: int = BINS) -> dict[str, Any]:
    """Expected and maximal calibration error, Brier score, log loss, and the bins of a reliability plot.

    The expected calibration error is the mean, over the images, of |accuracy - confidence| in the bin that an
    image's confidence falls into, ``bins`` bins of equal width, the last one with 1 itself (Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017); the maximal one is the largest gap. Empty bins
    are left out of ``reliability``.
    """
    probability, label = predictions.probability, predictions.label
    confidence, correct = probability.amax(1), predictions.correct

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
    gaps = [(abs(found["accuracy"] - found["confidence"]), found["images"]) for found in reliability]
    truth = one_hot(label, probability.shape[1]).double()
    return {
        "ece": sum(gap * images for gap, images in gaps) / len(label),
        "mce": max(gap for gap, _ in gaps),
        "brier": float((probability - truth).square().sum(1).mean()),
        "log_loss": float(-probability.gather(1, label[:, None]).clamp(min=1e-12).log().mean()),
        "mean_confidence": float(confidence.mean()),
        "reliability": reliability,
    }
