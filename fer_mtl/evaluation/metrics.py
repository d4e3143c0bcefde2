"""Figures of recognition, all of them derived from one confusion matrix.

So a cross-validation pools its folds by adding their matrices and reads the same figures from the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix


def confusion_matrix(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Counts as int64 ``[E, E]``, rows the true expression and columns the predicted one.

    ``predicted`` and ``labels`` are int64 ``[n]``; no image at all gives zeros.
    """
    if predicted.shape != labels.shape:
        raise ValueError(
            f"predicted must have the shape of labels {tuple(labels.shape)}, got {tuple(predicted.shape)}"
        )
    if labels.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64)
    return multiclass_confusion_matrix(predicted, labels, num_classes=num_classes).to(torch.int64).cpu()


def recognition_figures(confusion: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1, macro recall and per-class recall of a confusion matrix int64 ``[E, E]``.

    Macro figures average over the classes that occur among the true labels; a class without images has recall
    None. Raises ``ValueError`` when the matrix is not square in the classes.
    """
    if confusion.shape != (len(classes), len(classes)):
        raise ValueError(
            f"confusion must be {len(classes)} x {len(classes)} for {len(classes)} classes, "
            f"got {tuple(confusion.shape)}"
        )
    counts = confusion.to(torch.float64)
    hits, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    present = true > 0
    recall = hits / true.clamp(min=1)
    f1 = 2 * hits / (true + said).clamp(min=1)
    images = int(confusion.sum())
    some = images > 0
    return {
        "accuracy": float(hits.sum() / counts.sum()) if some else None,
        "macro_f1": float(f1[present].mean()) if some else None,
        "macro_recall": float(recall[present].mean()) if some else None,
        "per_class": {
            name: {"recall": float(recall[i]) if present[i] else None, "images": int(true[i])}
            for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "images": images,
    }
