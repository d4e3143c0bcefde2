from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fer_mtl.evaluation.statistics import (
    corrected_t,
    mcnemar,
    mean_interval,
    subject_interval,
    subject_permutation,
)


def test_the_t_interval_of_three_seeds() -> None:
    found = mean_interval([0.90, 0.92, 0.94])
    assert found["mean"] == pytest.approx(0.92) and found["deviation"] == pytest.approx(0.02)
    half = 4.302652730 * 0.02 / math.sqrt(3)  # t quantile of 2 degrees of freedom, from a table
    assert (found["low"], found["high"]) == pytest.approx((0.92 - half, 0.92 + half))


def test_one_seed_has_no_interval_and_none_is_refused() -> None:
    assert mean_interval([0.9])["low"] is None
    with pytest.raises(ValueError, match="at least one number"):
        mean_interval([])


def test_people_who_stand_or_fall_whole_widen_the_interval() -> None:
    correct = [1.0] * 60 + [0.0] * 40
    many = subject_interval(correct, [str(i) for i in range(100)])
    few = subject_interval(correct, [str(i // 10) for i in range(100)])
    assert many["low"] < 0.6 < many["high"]
    # One image a person is the binomial interval; ten images a person are a tenth of the evidence.
    assert many["high"] - many["low"] == pytest.approx(4 * math.sqrt(0.6 * 0.4 / 100), abs=0.03)
    ratio = (few["high"] - few["low"]) / (many["high"] - many["low"])
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)


def test_mcnemar_is_a_fair_coin_on_the_images_that_differ() -> None:
    first = [True] * 12 + [False] * 2 + [True] * 50
    second = [False] * 10 + [True] * 54
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (10, 2)
    tail = sum(math.comb(12, k) for k in range(3)) / 2**12
    assert found["p"] == pytest.approx(2 * tail)
    assert mcnemar(first, first)["p"] == 1.0
    with pytest.raises(ValueError, match="must have the same images, got 64 and 3"):
        mcnemar(first, [True] * 3)


def test_the_correction_widens_the_t_test() -> None:
    differences = [0.01, 0.03, 0.02, 0.02, 0.00, 0.04]
    plain, corrected = corrected_t(differences, 0.0), corrected_t(differences, 1 / 9)
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)
    assert plain["t"] == pytest.approx(mean / (deviation / math.sqrt(6)))
    assert corrected["t"] == pytest.approx(mean / (deviation * math.sqrt(1 / 6 + 1 / 9)))
    assert plain["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert plain["p"] < corrected["p"]
    assert corrected_t([0.1], 0.1)["p"] is None
    assert corrected_t([0.0, 0.0], 0.1)["p"] == 1.0


def test_equal_differences_prove_nothing() -> None:
    """However exactly they agree: 0.3 - 0.2 and 0.8 - 0.7 are the same but for rounding."""
    for differences in ([0.1] * 5, [0.3 - 0.2, 0.8 - 0.7, 0.9 - 0.8]):
        assert corrected_t(differences, 1 / 9)["p"] is None
    assert corrected_t([0.3 - 0.2 - 0.1, 0.0], 1 / 9)["p"] == 1.0


def test_sign_flips_go_by_subject() -> None:
    subjects = [str(i // 3) for i in range(30)]
    better, worse = [1.0] * 30, [0.0] * 30
    assert subject_permutation(better, worse, subjects)["p"] == pytest.approx(2 / 2**10, abs=0.002)
    same = subject_permutation(better, better, subjects)
    assert (same["p"], same["mean"], same["subjects"]) == (1.0, 0.0, 10)
    # All of one difference in a single person proves nothing.
    assert subject_permutation([1.0] * 3 + [0.0] * 27, worse, subjects)["p"] == 1.0
