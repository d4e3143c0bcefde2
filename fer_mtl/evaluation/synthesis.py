"""Synthesised faces: made for every expression, and measured where a true image exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.predict import device_of
from fer_mtl.models.fersnet import FERSNet

NO_TARGET = -1


@torch.no_grad()
def synthesise(
    model: FERSNet, images: torch.Tensor, expressions: torch.Tensor, batch_size: int = 32
) -> torch.Tensor:
    """Redraw ``images`` float ``[N, C, S, S]`` with ``expressions`` int64 ``[N]``: float ``[N, C, S, S]`` in
    [0, 1], on the CPU, in eval mode (the model's mode is put back). The network's output is not bounded; here
    it is clamped.

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


def distances(images: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """L1, PSNR (dB) and SSIM of float ``[N, C, S, S]`` in [0, 1] against their targets."""
    ssim = structural_similarity_index_measure(images, targets, data_range=1.0)
    return {
        "l1": float((images - targets).abs().mean()),
        "psnr": float(peak_signal_noise_ratio(images, targets, data_range=1.0)),
        "ssim": float(ssim),  # type: ignore[arg-type]
    }


@dataclass(frozen=True)
class Judge:
    """Who reads the expressions of synthesised faces, and what to call it in a report."""

    name: str
    model: FERSNet

    @torch.no_grad()
    def read(self, images: torch.Tensor) -> torch.Tensor:
        """The expression it sees in each of ``images`` float ``[N, C, S, S]``: int64 ``[N]``, on the CPU."""
        self.model.eval()
        device = device_of(self.model)
        parts = [self.model(chunk.to(device))["logits"].argmax(1).cpu() for chunk in images.split(64)]
        return torch.cat(parts)


def measure_synthesis(
    model: FERSNet, faces: FaceSet, *, limit: int = 48, judge: Judge | None = None
) -> dict[str, Any]:
    """Synthesise every OTHER expression for up to ``limit`` images of ``faces`` and measure the result.

    The expression accuracy is what ``judge`` (the model itself by default, and then it is said so) reads in
    the synthesised faces; the same judge's accuracy on the real sources stands beside it. Distances to the
    true target are over the pairs that have one, beside those of the unchanged source: a synthesis worth
    having is nearer to the target than the source is.
    """
    judge = judge or Judge("the trained recogniser itself, not independent", model)
    gallery = make_gallery(model, faces, spread(len(faces), limit))
    expressions = torch.arange(len(faces.classes))
    other = expressions != gallery.label[:, None]
    wanted = expressions.expand_as(other)[other]
    hits = judge.read(gallery.made[other]) == wanted
    pairs = gallery.known & other
    copied = gallery.source[:, None].expand_as(gallery.made)
    measured = bool(pairs.any())
    return {
        "images": len(wanted),
        "expression_accuracy": _share(hits),
        "per_expression": {name: _share(hits[wanted == e]) for e, name in enumerate(faces.classes)},
        "judge": judge.name,
        "judge_on_real_faces": _share(judge.read(gallery.source) == gallery.label),
        "pairs": int(pairs.sum()),
        "to_target": distances(gallery.made[pairs], gallery.target[pairs]) if measured else None,
        "unchanged_source": distances(copied[pairs], gallery.target[pairs]) if measured else None,
    }


def _share(hits: torch.Tensor) -> float | None:
    """The share of true entries; None of nothing."""
    return float(hits.float().mean()) if hits.numel() else None
