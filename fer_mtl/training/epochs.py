"""Epochs: where a run stands in them, which images each one takes and in what order, and its line of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Position:
    """Where a run is, and the running sums of the epoch it is in."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the next one."""
    order: torch.Tensor | None = None
    """That epoch's permutation of the training images, int64 ``[n]``; None before it has begun."""
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Images behind each of the sums."""
    images: int = 0
    hits: int = 0
    seconds: float = 0.0
    """Training time before this epoch, over every resumption, that of the identity encoder included."""
    epoch_seconds: float = 0.0
    updates: int = 0
    """Finished steps of the whole run."""
    best: float | None = None
    best_epoch: int = 0


def draw_order(real: int, total: int, mix: float, random: torch.Generator) -> torch.Tensor:
    """An epoch's images in random order, int64: all ``real`` ones and, where there are synthetic ones
    (``real`` .. ``total`` - 1), so many of those that they make up the share ``mix``."""
    if total == real:
        return torch.randperm(real, generator=random)
    wanted = round(real * mix / (1 - mix))
    rounds = -(-wanted // (total - real))
    drawn = torch.cat([torch.randperm(total - real, generator=random) for _ in range(rounds)])[:wanted]
    order = torch.cat([torch.arange(real), real + drawn])
    return order[torch.randperm(len(order), generator=random)]


def describe(line: dict[str, Any], epochs: int) -> str:
    """An epoch's line for people."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in line["losses"].items())
    validation = f"  validation {line['validation']['accuracy']:.1%}" if "validation" in line else ""
    return (
        f"epoch {line['epoch']:>3}/{epochs}  {losses}  accuracy {line['train_accuracy']:.1%}{validation}  "
        f"{line['images_per_second']:.0f} images/s"
    )
