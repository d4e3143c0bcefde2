"""A model's answers over a face set, in batches, without gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.metrics import confusion_matrix
from fer_mtl.models.fersnet import FERSNet


def device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def batches(faces: FaceSet, image_size: int, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Centre-cropped images float ``[N, C, S, S]`` in [0, 1] and their labels int64 ``[N]``, in order."""
    for start in range(0, len(faces), batch_size):
        chunk = slice(start, start + batch_size)
        yield center(faces.images[chunk], image_size), faces.labels[chunk]


@torch.no_grad()
def predict(model: FERSNet, faces: FaceSet, batch_size: int = 64, *, mirror: bool = False) -> torch.Tensor:
    """Logits float ``[n, E]`` on the CPU, computed in eval mode; the model's mode is put back.

    With ``mirror`` they are the mean log-probabilities of a face and its mirror image.
    """
    device, training = device_of(model), model.training
    model.eval()
    try:
        parts = []
        for images, _ in batches(faces, model.config["image_size"], batch_size):
            images = images.to(device)
            logits = model(images)["logits"].float()
            if mirror:
                mirrored = model(images.flip(3))["logits"].float()
                logits = (logits.log_softmax(1) + mirrored.log_softmax(1)) / 2
            parts.append(logits.cpu())
    finally:
        model.train(training)
    return torch.cat(parts) if parts else torch.empty(0, model.config["num_expressions"])


def evaluate_recognition(
    model: FERSNet, faces: FaceSet, batch_size: int = 64, *, mirror: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and the confusion matrix int64 ``[E, E]`` of ``model`` on ``faces``."""
    logits = predict(model, faces, batch_size, mirror=mirror)
    return logits, confusion_matrix(logits.argmax(1), faces.labels, model.config["num_expressions"])
