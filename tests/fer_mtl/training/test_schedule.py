from __future__ import annotations

from collections.abc import Callable

import pytest

from fer_mtl.training.config import TrainConfig
from fer_mtl.training.schedule import learning_rate

Tiny = Callable[..., TrainConfig]


def test_the_published_steps(tiny: Tiny) -> None:
    config = TrainConfig()
    rates = [learning_rate(config, epoch) for epoch in (0, 149.9, 150, 399, 400, 499)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_the_first_epoch_of_few_has_the_full_rate(tiny: Tiny) -> None:
    config = tiny(epochs=2, optimiser={"learning_rate": 1.0, "milestones": [0.1], "gamma": 0.1})
    assert [learning_rate(config, epoch) for epoch in (0, 1)] == pytest.approx([1.0, 0.1])


def test_cosine_falls_to_zero_after_the_warm_up(tiny: Tiny) -> None:
    config = tiny(epochs=10, optimiser={"schedule": "cosine", "warmup": 0.2, "learning_rate": 1.0})
    assert learning_rate(config, 0) == pytest.approx(0.5 / 2.5)
    assert learning_rate(config, 1) == pytest.approx(1.5 / 2.5)
    assert learning_rate(config, 2) == 1.0
    assert learning_rate(config, 6) == pytest.approx(0.5)
    assert learning_rate(config, 10) == pytest.approx(0.0)
