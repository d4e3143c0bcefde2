"""Training pairs for synthesis: an image and a real image of the same subject with another expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Pairs(NamedTuple):
    """source, target: int64 [B] indices of images; target_label: int64 [B], the target's expression."""

    source: torch.Tensor
    target: torch.Tensor
    target_label: torch.Tensor


class PairSampler:
    """Draws targets for source images.

    For each source: one of the OTHER expressions its subject has, all equally likely, then one of the
    subject's images with that expression. A subject with a single expression yields a pair within it.

    labels: int64 [n]; subjects: subject id per image; num_classes: number of expressions
    generator: source of randomness; its state is all that a resumed run needs
    pool: indices of the images that may be targets (default all): the training part of a fold
    """

    def __init__(
        self,
        labels: Sequence[int] | torch.Tensor,
        subjects: Sequence[str],
        num_classes: int,
        generator: torch.Generator,
        pool: Sequence[int] | torch.Tensor | None = None,
    ) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.num_classes = num_classes
        self.generator = generator
        if len(self.labels) != len(subjects):
            raise ValueError(
                f"labels and subjects must have one length, got {len(self.labels)} and {len(subjects)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < num_classes:
            raise ValueError(
                f"labels must lie in 0..{num_classes - 1}, "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )
        numbers = {name: i for i, name in enumerate(dict.fromkeys(subjects))}
        self._subject = torch.tensor([numbers[name] for name in subjects], dtype=torch.int64)
        everything = torch.arange(len(self.labels))
        members = everything if pool is None else torch.as_tensor(pool, dtype=torch.int64)
        # All images sorted by (subject, expression); a cell is a run [start, start + count) of that order.
        cell = self._subject[members] * num_classes + self.labels[members]
        self._order = members[torch.argsort(cell, stable=True)]
        counts = torch.bincount(cell, minlength=len(numbers) * num_classes)
        self._start = (counts.cumsum(0) - counts).view(-1, num_classes)
        self._count = counts.view(-1, num_classes)

    def sample(self, indices: Sequence[int] | torch.Tensor) -> Pairs:
        """Draw a target for every index. Raises ValueError for a source whose subject is not in the pool."""
        source = torch.as_tensor(indices, dtype=torch.int64)
        subject, label = self._subject[source], self.labels[source]
        available = self._count[subject] > 0  # [B, num_classes]
        if not bool(available.any(1).all()):
            lost = source[~available.any(1)].tolist()
            raise ValueError(f"images {lost[:5]} belong to subjects without an image in the pool")
        own = torch.nn.functional.one_hot(label, self.num_classes).bool()
        others = available & ~own
        choices = torch.where(others.any(1, keepdim=True), others, available)
        # The largest of independent uniform numbers is equally likely to be any of them.
        scores = torch.rand(choices.shape, generator=self.generator, dtype=torch.float64)
        target_label = scores.masked_fill(~choices, -1.0).argmax(1)
        count = self._count[subject, target_label]
        draw = torch.rand(len(source), generator=self.generator, dtype=torch.float64)
        offset = torch.minimum((draw * count).long(), count - 1)
        target = self._order[self._start[subject, target_label] + offset]
        return Pairs(source, target, target_label)
