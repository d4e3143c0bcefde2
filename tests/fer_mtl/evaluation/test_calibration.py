from __future__ import annotations

import math

import pytest
import torch

from fer_mtl.evaluation.calibration import calibration
from fer_mtl.evaluation.predictions import Predictions


def made(confidence: list[float], correct: list[bool]) -> Predictions:
    """Two classes; the first one is predicted with the given confidences of at least one half."""
    first = torch.tensor(confidence, dtype=torch.float64)
    label = torch.tensor([0 if hit else 1 for hit in correct])
    names = [str(i) for i in range(len(correct))]
    return Predictions(("a", "b"), names, names, label, torch.stack([first, 1 - first], 1))


def test_the_error_is_the_gap_of_each_bin() -> None:
    found = calibration(
        made([0.95] * 10 + [0.65] * 10, [True] * 8 + [False] * 2 + [True] * 6 + [False] * 4), 10
    )
    assert found["ece"] == pytest.approx((0.15 + 0.05) / 2, abs=1e-6)
    assert found["mce"] == pytest.approx(0.15, abs=1e-6)
    assert found["mean_confidence"] == pytest.approx(0.8)
    assert [(b["images"], round(b["accuracy"], 2)) for b in found["reliability"]] == [(10, 0.6), (10, 0.8)]
    wanted = (8 * 2 * 0.05**2 + 2 * 2 * 0.95**2 + 6 * 2 * 0.35**2 + 4 * 2 * 0.65**2) / 20
    assert found["brier"] == pytest.approx(wanted)
    logs = (8 * math.log(0.95) + 2 * math.log(0.05) + 6 * math.log(0.65) + 4 * math.log(0.35)) / 20
    assert found["log_loss"] == pytest.approx(-logs)


def test_the_errors_are_those_of_the_bins_that_are_shown() -> None:
    """Certain answers share a bin with almost certain ones: here 0.5 + 0.5 are right of 1 + 0.95."""
    found = calibration(made([1.0, 0.95, 0.7, 0.7], [True, False, True, True]), 10)
    (last,) = [entry for entry in found["reliability"] if entry["confidence"] > 0.9]
    assert (last["images"], last["accuracy"]) == (2, 0.5)
    assert found["ece"] == pytest.approx((2 * 0.475 + 2 * 0.3) / 4, abs=1e-12)
    assert found["mce"] == pytest.approx(0.475, abs=1e-12)


def test_certain_answers_lie_in_the_last_bin() -> None:
    found = calibration(made([1.0, 0.85], [True, True]), 10)
    assert [b["confidence"] for b in found["reliability"]] == pytest.approx([0.85, 1.0])


def test_a_certain_and_right_answer_has_no_error() -> None:
    found = calibration(made([1.0, 1.0], [True, True]))
    assert (found["ece"], found["brier"], found["log_loss"]) == pytest.approx((0, 0, 0))


def test_a_certain_and_wrong_answer_has_a_number() -> None:
    assert calibration(made([1.0], [False]))["log_loss"] == pytest.approx(-math.log(1e-12))
