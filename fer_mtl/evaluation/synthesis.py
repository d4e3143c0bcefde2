"""Synthesised faces: made for every expression, shown beside true images, and between two expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.predict import device_of
from fer_mtl.models.fersnet import FERSNet

NO_TARGET = -1


@torch.no_grad()
def synthesise(
    model: FERSNet, images: torch.Tensor, expressions: torch.Tensor, batch_size: int = 32
) -> torch.Tensor:
    """Redraw ``images`` float ``[N, C, S, S]`` with ``expressions``, labels int64 ``[N]`` or codes float
    ``[N, E]``: float ``[N, C, S, S]`` in [0, 1], on the CPU, in eval mode (the model's mode is put back). The
    network's output is not bounded; here it is clamped.

    Raises ``ValueError`` for a model without a synthesis branch.
    """
    if not model.config["synthesis"]:
        raise ValueError("model must have a synthesis branch to synthesise, got one with synthesis=False")
    device, training = device_of(model), model.training
    model.eval()
    try:
        parts = [
            model(chunk.to(device), wanted.to(device))["image"].float().clamp(0, 1).cpu()
            for chunk, wanted in zip(images.split(batch_size), expressions.split(batch_size), strict=True)
        ]
    finally:
        model.train(training)
    return torch.cat(parts) if parts else torch.empty_like(images)


def spread(count: int, limit: int) -> list[int]:
    """``limit`` indices spread evenly over ``range(count)`` (all of them when there are fewer)."""
    return list(range(count)) if count <= limit else [i * count // limit for i in range(limit)]


def find_targets(faces: FaceSet, sources: Sequence[int]) -> torch.Tensor:
    """For every source and expression the first image of the same subject that shows it: int64 ``[n, E]``,
    ``NO_TARGET`` where the subject never does. The source itself serves its own expression."""
    first: dict[tuple[str, int], int] = {}
    for index, (subject, label) in enumerate(zip(faces.subjects, faces.labels.tolist(), strict=True)):
        first.setdefault((subject, label), index)
    table = torch.tensor(
        [[first.get((faces.subjects[i], e), NO_TARGET) for e in range(len(faces.classes))] for i in sources],
        dtype=torch.int64,
    ).reshape(-1, len(faces.classes))
    for row, source in enumerate(sources):
        table[row, faces.labels[source]] = source
    return table


@dataclass(frozen=True)
class Gallery:
    """Sources with each expression synthesised, and the true image where there is one.

    ``source`` float ``[n, C, S, S]``; ``made`` float ``[n, E, C, S, S]``; ``target`` like it, undefined where
    ``known`` (bool ``[n, E]``) is false; ``label`` int64 ``[n]`` is the sources' own expression.
    """

    source: torch.Tensor
    label: torch.Tensor
    made: torch.Tensor
    target: torch.Tensor
    known: torch.Tensor
    subjects: list[str]


def make_gallery(model: FERSNet, faces: FaceSet, sources: Sequence[int]) -> Gallery:
    """Synthesise every expression for the images ``sources`` of ``faces``."""
    size, expressions = model.config["image_size"], len(faces.classes)
    chosen = torch.tensor(list(sources), dtype=torch.int64)
    source = center(faces.images[chosen], size)
    targets = find_targets(faces, sources)
    wanted = torch.arange(expressions).repeat(len(chosen))
    made = synthesise(model, source.repeat_interleave(expressions, 0), wanted)
    true = center(faces.images[targets.clamp(min=0).flatten()], size)
    shape = (len(chosen), expressions, *source.shape[1:])
    return Gallery(
        source,
        faces.labels[chosen],
        made.reshape(shape),
        true.reshape(shape),
        targets != NO_TARGET,
        [faces.subjects[i] for i in sources],
    )


def gallery_sources(faces: FaceSet, rows: int = 5) -> list[int]:
    """One source for each of a few subjects, with another expression from row to row where they have it."""
    subjects = sorted(set(faces.subjects))
    sources = []
    for row, which in enumerate(spread(len(subjects), rows)):
        mine = [i for i, subject in enumerate(faces.subjects) if subject == subjects[which]]
        sources.append(min(mine, key=lambda i: (int(faces.labels[i]) - 2 * row) % len(faces.classes)))
    return sources


def interpolate(model: FERSNet, faces: FaceSet, sources: Sequence[int], steps: int = 7) -> Interpolation:
    """Redraw each source from its own expression to another one in ``steps`` even steps of the code.

    The other expression goes round the classes from row to row.
    """
    chosen = torch.tensor(list(sources), dtype=torch.int64)
    classes, own = len(faces.classes), faces.labels[chosen]
    other = (own + 1 + torch.arange(len(chosen)) % (classes - 1)) % classes
    share = torch.linspace(0, 1, steps)[None, :, None]
    codes = (1 - share) * one_hot(own, classes)[:, None] + share * one_hot(other, classes)[:, None]
    source = center(faces.images[chosen], model.config["image_size"])
    made = synthesise(model, source.repeat_interleave(steps, 0), codes.flatten(0, 1))
    return Interpolation(source, own, other, made.reshape(len(chosen), steps, *source.shape[1:]))


@dataclass(frozen=True)
class Interpolation:
    """``source`` float ``[n, C, S, S]``, expressions ``start`` and ``end`` int64 ``[n]``, ``made`` float
    ``[n, steps, C, S, S]``."""

    source: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    made: torch.Tensor
