"""A model's answers over a face set, in batches, without gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.metrics import confusion_matrix
from fer_mtl.models.fersnet import FERSNet

VIEWS = ("center", "mirror", "ten")


def device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def batches(faces: FaceSet, image_size: int, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Centre-cropped images float ``[N, C, S, S]`` in [0, 1] and their labels int64 ``[N]``, in order."""
    for start in range(0, len(faces), batch_size):
        chunk = slice(start, start + batch_size)
        yield center(faces.images[chunk], image_size), faces.labels[chunk]


def crops(images: torch.Tensor, image_size: int, views: str) -> Iterator[torch.Tensor]:
    """The views of stored faces uint8 ``[N, C, S, S]``, each float ``[N, C, image_size, image_size]``:
    the centre; with "mirror" also its mirror image; with "ten" both of these and of four crops half-way
    between the centre and the corners of the stored margin."""
    side = images.shape[3]
    middle = (side - image_size) // 2
    near, far = middle // 2, side - image_size - middle // 2
    corners = [(near, near), (near, far), (far, near), (far, far)] if views == "ten" else []
    yield center(images, image_size)
    if views != "center":
        yield center(images, image_size).flip(3)
    for top, left in corners:
        crop = images[:, :, top : top + image_size, left : left + image_size].float().div_(255)
        yield crop
        yield crop.flip(3)


@torch.no_grad()
def predict(
    model: FERSNet, stored: torch.Tensor, batch_size: int = 64, *, views: str = "center"
) -> torch.Tensor:
    """Logits float ``[n, E]`` on the CPU for stored faces uint8 ``[n, C, S, S]``, computed in eval mode; the
    model's mode is put back.

    With more ``views`` than the centre they are the mean log-probabilities over the views, see :func:`crops`.
    Raises ``ValueError`` for unknown views.
    """
    if views not in VIEWS:
        raise ValueError(f"views must be one of {', '.join(VIEWS)}, got {views!r}")
    device, training = device_of(model), model.training
    parts = []
    model.eval()
    try:
        for start in range(0, len(stored), batch_size):
            seen = crops(stored[start : start + batch_size], model.config["image_size"], views)
            logits = [model(view.to(device))["logits"].float().cpu() for view in seen]
            if len(logits) > 1:
                logits = [torch.stack([found.log_softmax(1) for found in logits]).mean(0)]
            parts.append(logits[0])
    finally:
        model.train(training)
    return torch.cat(parts) if parts else torch.empty(0, model.config["num_expressions"])


def evaluate_recognition(
    model: FERSNet, faces: FaceSet, batch_size: int = 64, *, views: str = "center"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and the confusion matrix int64 ``[E, E]`` of ``model`` on ``faces``."""
    logits = predict(model, faces.images, batch_size, views=views)
    return logits, confusion_matrix(logits.argmax(1), faces.labels, model.config["num_expressions"])
