"""Subject-independent folds: no subject is ever on both sides of a split. And the official split of a set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch

RULES = ("stratified", "sorted", "official")


@dataclass(frozen=True)
class Fold:
    """One split. train, test: int64 indices of images; test_subjects: the subjects held out, sorted."""

    index: int
    train: torch.Tensor
    test: torch.Tensor
    test_subjects: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain ints, lists and strings."""
        return {
            "index": self.index,
            "train": self.train.tolist(),
            "test": self.test.tolist(),
            "test_subjects": list(self.test_subjects),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fold:
        """The inverse of `to_json`."""
        return cls(
            index=data["index"],
            train=torch.tensor(data["train"], dtype=torch.int64),
            test=torch.tensor(data["test"], dtype=torch.int64),
            test_subjects=tuple(data["test_subjects"]),
        )


def make_folds(
    labels: Sequence[int] | torch.Tensor,
    subjects: Sequence[str],
    n_splits: int = 10,
    rule: str = "stratified",
    seed: int = 0,
    official: Sequence[str] | None = None,
) -> list[Fold]:
    """Split images into n_splits folds by subject; every image is tested once.

    rule: "stratified" keeps the classes' shares alike in all folds (scikit-learn's StratifiedGroupKFold,
        shuffled with the seed); "sorted" is the rule of the public FERSNet code: subjects in sorted order,
        n_splits runs of equal length, the remainder in the last. It takes no seed. "official" is a single
        fold whatever n_splits and seed: the set's own training and test parts.
    official: the part of each image, as `FaceSet.split`, for the rule "official"

    Raises ValueError for fewer subjects than folds, an unknown rule, lengths that differ, and for the rule
    "official" without such parts, or with a subject on both sides. Warns where a
    fold trains without any image of a class that exists.
    """
    y, ids = _check(labels, subjects)
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    if isinstance(n_splits, bool) or not isinstance(n_splits, int) or n_splits < 2:
        raise ValueError(f"n_splits must be an int of at least 2, got {n_splits!r}")
    if rule == "official":
        return [_official(y, ids, official)]
    held_out = _stratified(y, ids, n_splits, seed) if rule == "stratified" else _sorted(ids, n_splits)
    folds = []
    for index, test in enumerate(held_out):
        train = np.setdiff1d(np.arange(len(y)), test)
        names = tuple(sorted(set(ids[test])))
        folds.append(Fold(index, torch.from_numpy(train), torch.from_numpy(test), names))
    check_folds(folds, subjects)
    for fold in folds:
        _warn_missing(y, fold.train.numpy(), f"fold {fold.index} of the rule {rule!r}")
    return folds


def split_validation(
    labels: Sequence[int] | torch.Tensor,
    subjects: Sequence[str],
    train_indices: Sequence[int] | torch.Tensor,
    fraction: float = 0.1,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Set aside about `fraction` of the training images for validation, by whole subjects, stratified: as
    near to it as parts of about equal size come, and at least one subject.

    Returns (train, validation): int64 indices into the whole set, sorted, without a common subject.
    Raises ValueError for a fraction outside (0, 0.5] or fewer than two training subjects.
    """
    y, ids = _check(labels, subjects)
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction must be above 0 and at most 0.5, got {fraction!r}")
    given = np.sort(np.asarray(train_indices, dtype=np.int64))
    n_subjects = len(set(ids[given]))
    if n_subjects < 2:
        raise ValueError(f"a validation split needs at least 2 training subjects, got {n_subjects}")
    # So many of so many equal parts: 2 of 5 for 0.4. Few parts, since small ones are stratified worse.
    most = min(n_subjects, max(20, round(1 / fraction)))
    share = max(Fraction(fraction).limit_denominator(most), Fraction(1, most))
    parts = _stratified(y[given], ids[given], share.denominator, seed)
    validation = given[np.sort(np.concatenate(parts[: share.numerator]))]
    train = np.setdiff1d(given, validation)
    _require_disjoint(ids, train, validation, "the validation split")
    _warn_missing(y, train, "training without the validation split", among=given)
    return torch.from_numpy(train), torch.from_numpy(validation)


def check_folds(folds: Sequence[Fold], subjects: Sequence[str]) -> None:
    """Raise ValueError unless every fold separates the subjects and every image is tested exactly once."""
    ids = np.asarray(subjects)
    for fold in folds:
        train, test = fold.train.numpy(), fold.test.numpy()
        for part, name in ((train, "training"), (test, "test")):
            if not len(part):
                raise ValueError(f"fold {fold.index} has an empty {name} part")
            if part.min() < 0 or part.max() >= len(ids):
                raise ValueError(f"fold {fold.index} names images beyond the {len(ids)} of this set")
        _require_disjoint(ids, train, test, f"fold {fold.index}")
        if set(fold.test_subjects) != set(ids[test]):
            raise ValueError(f"fold {fold.index} lists other test subjects than its images have")
    tested = np.concatenate([fold.test.numpy() for fold in folds])
    if not np.array_equal(np.sort(tested), np.arange(len(ids))):
        raise ValueError(
            f"the folds test {len(set(tested.tolist()))} of {len(ids)} images, each must be tested once"
        )


def _check(labels: Sequence[int] | torch.Tensor, subjects: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    y, ids = np.asarray(labels), np.asarray(list(subjects), dtype=str)
    if y.ndim != 1 or len(y) != len(ids):
        raise ValueError(f"labels and subjects must have one length, got {list(y.shape)} and {len(ids)}")
    return y, ids


def _stratified(y: np.ndarray, ids: np.ndarray, n_splits: int, seed: int) -> list[np.ndarray]:
    from sklearn.model_selection import StratifiedGroupKFold  # here, since its import takes a second

    _require_subjects(ids, n_splits)
    splitter = StratifiedGroupKFold(n_splits=n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # It warns of classes with fewer images than folds; what matters is checked on the result.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        # It refuses sets in which every class has fewer images than folds: group them without strata then.
        strata = y if np.bincount(y).max(initial=0) >= n_splits else np.zeros_like(y)
        return [test for _, test in splitter.split(y, strata, ids)]


def _sorted(ids: np.ndarray, n_splits: int) -> list[np.ndarray]:
    _require_subjects(ids, n_splits)
    names = np.unique(ids)
    length = len(names) // n_splits
    starts = [i * length for i in range(n_splits)] + [len(names)]
    return [np.flatnonzero(np.isin(ids, names[a:b])) for a, b in pairwise(starts)]


def _official(y: np.ndarray, ids: np.ndarray, official: Sequence[str] | None) -> Fold:
    parts = np.asarray([] if official is None else official, dtype=str)
    train, test = (np.flatnonzero(parts == part) for part in ("train", "test"))
    if len(parts) != len(y) or not len(train) or not len(test):
        raise ValueError(
            "the rule 'official' needs a data set with official training and test parts; "
            f"got {len(train)} images to train and {len(test)} to test"
        )
    _require_disjoint(ids, train, test, "the official split")
    _warn_missing(y, train, "the official split")
    return Fold(0, torch.from_numpy(train), torch.from_numpy(test), tuple(sorted(set(ids[test]))))


def _require_subjects(ids: np.ndarray, n_splits: int) -> None:
    n_subjects = len(np.unique(ids))
    if n_subjects < n_splits:
        raise ValueError(f"{n_splits} folds need at least {n_splits} subjects, got {n_subjects}")


def _require_disjoint(ids: np.ndarray, train: np.ndarray, test: np.ndarray, where: str) -> None:
    both = sorted(set(ids[train]) & set(ids[test]))
    if both:
        raise ValueError(f"{where} has subjects on both sides: {', '.join(both[:5])}")


def _warn_missing(y: np.ndarray, train: np.ndarray, where: str, among: np.ndarray | None = None) -> None:
    existing = np.unique(y if among is None else y[among])
    missing = np.setdiff1d(existing, y[train])
    if len(missing):
        warnings.warn(
            f"{where} leaves no image of class {missing.tolist()} to train on", UserWarning, stacklevel=3
        )
