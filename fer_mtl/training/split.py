"""Which images train, which select the epoch and which are tested; no subject is ever in two of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.folds import Fold, make_folds, split_validation
from fer_mtl.training.config import TrainConfig


@dataclass(frozen=True)
class Split:
    """Indices (int64) into a face set, by role. ``validation`` and ``test`` may be empty."""

    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    fold: int | None

    def subjects(self, faces: FaceSet) -> dict[str, list[str]]:
        """Sorted subjects by role, as reports and checkpoints keep them."""
        return {
            role: sorted({faces.subjects[i] for i in getattr(self, role).tolist()})
            for role in ("train", "validation", "test")
        }


def folds_of(config: TrainConfig, faces: FaceSet) -> list[Fold]:
    """All folds that ``config`` asks for; raises as :func:`fer_mtl.data.folds.make_folds`."""
    with warnings.catch_warnings():
        # It knows classes by number; whoever trains says it by name, see missing_classes.
        warnings.filterwarnings("ignore", r".* leaves no image of class", UserWarning)
        return make_folds(
            faces.labels, faces.subjects, n_splits=config.folds, rule=config.fold_rule, seed=config.fold_seed,
            official=faces.split,
        )  # fmt: skip


def missing_classes(faces: FaceSet, indices: torch.Tensor) -> list[str]:
    """Names of the expressions that ``faces`` shows, but its images ``indices`` do not."""
    seen = torch.bincount(faces.labels[indices], minlength=len(faces.classes))
    return [
        name
        for name, count in zip(faces.classes, seen, strict=True)
        if not count and faces.class_counts()[name]
    ]


def check_expressions(source: str | Path, trained: Iterable[str], shown: Sequence[str]) -> None:
    """Raise ``ValueError`` where ``source`` was trained on other expressions than its data shows now: a
    folder tells them itself, and a label is the number of one."""
    if list(trained) != list(shown):
        raise ValueError(
            f"{source} was trained on {', '.join(trained)}, not {', '.join(shown)}: the data has changed "
            "since; begin anew"
        )


def pick_subjects(faces: FaceSet, indices: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    """Of the images ``indices`` those of ``count`` subjects, int64, in order.

    Subjects join one by one: among all in random order, the one with whom the shares of the expressions come
    nearest to those of all ``indices``. So a smaller choice is part of every larger one of the same seed.

    Raises ``ValueError`` for fewer subjects than ``count``.
    """
    subjects = sorted({faces.subjects[i] for i in indices.tolist()})
    if len(subjects) < count:
        raise ValueError(f"train_subjects must be at most the {len(subjects)} of the fold, got {count}")
    histograms = torch.zeros(len(subjects), len(faces.classes), dtype=torch.float64)
    rows = torch.tensor([subjects.index(faces.subjects[i]) for i in indices.tolist()])
    histograms.index_put_((rows, faces.labels[indices]), torch.ones(len(rows), dtype=torch.float64), True)
    wanted = histograms.sum(0) / histograms.sum()
    left = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen, total = set(), torch.zeros_like(wanted)
    for _ in range(count):
        sums = total + histograms[left]
        distance = (sums / sums.sum(1, keepdim=True) - wanted).square().sum(1)
        best = left.pop(int(distance.argmin()))
        total += histograms[best]
        chosen.add(best)
    return indices[torch.tensor([int(row) in chosen for row in rows])]


def make_split(config: TrainConfig, faces: FaceSet) -> Split:
    """The split that ``config`` asks for. With the official rule an official validation part, where there is
    one, selects the epoch, and is left alone when nothing is to be selected.

    Raises ``ValueError`` when there are fewer subjects than folds, and ``RuntimeError`` should a subject turn
    up in two roles: a leak would make every figure of the run worthless, so it is checked here whatever made
    the folds.
    """
    none = torch.empty(0, dtype=torch.int64)
    train, test = torch.arange(len(faces)), none
    if config.fold is not None:
        fold = folds_of(config, faces)[config.fold]
        train, test = fold.train, fold.test
    validation = none
    official = config.fold is not None and config.fold_rule == "official"
    if config.selection == "validation" and official and "validation" in (faces.split or ()):
        validation = torch.tensor([i for i, part in enumerate(faces.split or ()) if part == "validation"])
    elif config.selection == "validation":
        train, validation = split_validation(
            faces.labels, faces.subjects, train, fraction=config.validation_fraction, seed=config.fold_seed
        )
    if config.train_subjects is not None:
        train = pick_subjects(faces, train, config.train_subjects, config.fold_seed)
    split = Split(train, validation, test, config.fold)
    roles = [set(subjects) for subjects in split.subjects(faces).values()]
    shared = (roles[0] & roles[1]) | (roles[0] & roles[2]) | (roles[1] & roles[2])
    if shared:
        raise RuntimeError(f"subjects in more than one part of the split: {', '.join(sorted(shared))}")
    return split
