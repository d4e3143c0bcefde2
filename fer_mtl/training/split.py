"""Which images train, which select the epoch and which are tested; no subject is ever in two of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.folds import make_folds, split_validation
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
        fold = make_folds(
            faces.labels, faces.subjects, n_splits=config.folds, rule=config.fold_rule, seed=config.fold_seed,
            official=faces.split,
        )[config.fold]  # fmt: skip
        train, test = fold.train, fold.test
    validation = none
    official = config.fold is not None and config.fold_rule == "official"
    if config.selection == "validation" and official and "validation" in (faces.split or ()):
        validation = torch.tensor([i for i, part in enumerate(faces.split or ()) if part == "validation"])
    elif config.selection == "validation":
        train, validation = split_validation(
            faces.labels, faces.subjects, train, fraction=config.validation_fraction, seed=config.fold_seed
        )
    split = Split(train, validation, test, config.fold)
    roles = [set(subjects) for subjects in split.subjects(faces).values()]
    shared = (roles[0] & roles[1]) | (roles[0] & roles[2]) | (roles[1] & roles[2])
    if shared:
        raise RuntimeError(f"subjects in more than one part of the split: {', '.join(sorted(shared))}")
    return split
