"""Training of the identity encoder, which then serves frozen in the identity term of the generator's loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.models.identity import IdentityEncoder, freeze
from fer_mtl.training.augmentation import make_augmentation
from fer_mtl.training.config import TrainConfig

BATCH_SIZE, LEARNING_RATE = 32, 2e-3


def train_identity(
    encoder: IdentityEncoder,
    faces: FaceSet,
    config: TrainConfig,
    generator: torch.Generator,
    console: Console,
    check: Callable[[], None],
) -> float:
    """Teach ``encoder`` to tell the subjects of ``faces`` (the training subjects) apart, and freeze it.

    ``check`` is called after every step and may raise to stop. Returns the accuracy over the last epoch, on
    augmented training images.
    """
    device = next(encoder.parameters()).device
    numbers = {subject: number for number, subject in enumerate(sorted(set(faces.subjects)))}
    names = torch.tensor([numbers[subject] for subject in faces.subjects])
    augment = make_augmentation("paper", config.model.image_size)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=LEARNING_RATE)
    encoder.train().requires_grad_(True)
    epochs, hits = config.identity.epochs, 0
    with console.bar("identity encoder", epochs * -(-len(faces) // BATCH_SIZE)):
        for _ in range(epochs):
            hits = 0
            for indices in torch.randperm(len(faces), generator=generator).split(BATCH_SIZE):
                images = augment(faces.images[indices].to(device), generator=generator)
                logits, wanted = encoder(images), names[indices].to(device)
                optimiser.zero_grad(set_to_none=True)
                cross_entropy(logits, wanted).backward()
                optimiser.step()
                hits += int((logits.argmax(1) == wanted).sum())
                console.advance()
                check()
    freeze(encoder)
    return hits / len(faces)
