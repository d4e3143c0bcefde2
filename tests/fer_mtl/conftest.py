"""What the tests of training, evaluation and commands share: a few small drawn faces and a tiny
configuration.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_mtl.data import FaceSet, load
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.presets import preset_config

TINY_DATA = "procedural:num_subjects=8,images_per_expression=1"


@pytest.fixture(scope="session")
def faces() -> FaceSet:
    """56 drawn faces of 8 subjects, for crops of 32 pixels."""
    return load(TINY_DATA, image_size=32)


@pytest.fixture
def tiny() -> Callable[..., TrainConfig]:
    """A function from overrides to a configuration that trains in about a second."""

    def make(**overrides: Any) -> TrainConfig:
        model = {"image_size": 32, "width": 0.125, **overrides.pop("model", {})}
        identity = {"epochs": 1, "width": 0.25, **overrides.pop("identity", {})}
        values = {"data": TINY_DATA, "folds": 4, "epochs": 2, "batch_size": 14, **overrides}
        return preset_config("small", model=model, identity=identity, **values)

    return make


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, faces: FaceSet) -> Path:
    """The folder of a finished tiny run, with its report. Tests must not change it."""
    from fer_mtl.training.run import train_run

    folder = tmp_path_factory.mktemp("trained") / "run"
    config = preset_config(
        "small",
        data=TINY_DATA,
        folds=4,
        epochs=2,
        batch_size=14,
        model={"image_size": 32, "width": 0.125},
        identity={"epochs": 1, "width": 0.25},
    )
    train_run(config, folder, faces=faces)
    return folder


@pytest.fixture(params=["SIGINT", "SIGTERM", "SIGHUP"])
def end(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal as a terminal's processes have it, whoever started the tests (nohup ignores some)."""
    number = getattr(signal, request.param)
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    yield number
    assert signal.signal(number, before) == usual
