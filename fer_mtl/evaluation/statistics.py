"""How sure a figure is, and whether two runs differ: intervals, and paired tests on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 4000
ROUNDING = 1e-12
"""Far above the rounding of a difference of accuracies, far below what a single image makes of one."""


def mean_interval(values: Sequence[float], level: float = LEVEL) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and the t interval of the mean of independent runs; deviation and
    interval are None for a single value."""
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("values must hold at least one number, got none")
    mean, n = float(array.mean()), array.size
    if n == 1:
        return {"mean": mean, "deviation": None, "low": None, "high": None, "n": 1, "level": level}
    deviation = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * deviation / math.sqrt(n)
    return {
        "mean": mean,
        "deviation": deviation,
        "low": mean - half,
        "high": mean + half,
        "n": n,
        "level": level,
    }


def subject_interval(
    correct: Sequence[float], subjects: Sequence[str], level: float = LEVEL
) -> dict[str, float]:
    """Bootstrap interval of an accuracy that draws whole subjects, since images of one person stand or fall
    together. ``correct`` is 0 or 1 (or a mean over seeds) for each image. Seeded."""
    sums, counts = _by_subject(correct, subjects)
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    values = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return {"low": float(low), "high": float(high), "level": level, "subjects": len(sums)}


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """McNemar's exact test on images that exactly one of two runs got right (Dietterich, Neural Computation
    1998). It takes the images as independent; frames of one sequence are not, so it is too sure of itself."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"both runs must have the same images, got {a.size} and {b.size}")
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def corrected_t(differences: Sequence[float], test_share: float) -> dict[str, Any]:
    """Paired t test over folds with the correction for training sets that overlap (Nadeau and Bengio,
    Machine Learning 2003): the variance is taken (1/n + n_test/n_train) times, not 1/n times.

    ``test_share`` is n_test / n_train of a fold. p is None for fewer than two differences, and for equal
    ones that are not 0: of how much they vary, on which the test rests, they tell nothing.
    """
    array = np.asarray(differences, dtype=np.float64)
    n, mean = array.size, float(array.mean())
    if n < 2:
        return {"mean": mean, "n": n, "t": None, "p": None}
    if np.ptp(array) < ROUNDING:
        return {"mean": mean, "n": n, "t": None, "p": 1.0 if abs(mean) < ROUNDING else None}
    t = mean / math.sqrt(float(array.var(ddof=1)) * (1 / n + test_share))
    return {"mean": mean, "n": n, "t": t, "p": float(2 * stats.t.sf(abs(t), n - 1))}


def subject_permutation(
    first: Sequence[float], second: Sequence[float], subjects: Sequence[str]
) -> dict[str, Any]:
    """Sign-flip test over subjects: were the two runs alike, each subject's difference in correct images
    could as well have the other sign. Two-sided, by DRAWS seeded draws; the observed signs
    count as one of them."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    sums, _ = _by_subject(difference, subjects)
    observed = abs(sums.sum())
    signs = np.random.default_rng(0).integers(0, 2, size=(DRAWS, len(sums))) * 2 - 1
    extreme = int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    return {
        "mean": float(difference.mean()),
        "subjects": len(sums),
        "p": (extreme + 1) / (DRAWS + 1),
    }


def _by_subject(
    values: Sequence[float] | np.ndarray, subjects: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each subject, in the order of their sorted ids."""
    _, index = np.unique(np.asarray(subjects), return_inverse=True)
    array = np.asarray(values, dtype=np.float64)
    return np.bincount(index, weights=array), np.bincount(index).astype(np.float64)
