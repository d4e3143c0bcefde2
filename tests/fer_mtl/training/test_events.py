from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import FaceSet
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.run import train_run
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.trainer import Trainer


def test_a_run_writes_them_into_its_own_folder(
    faces: FaceSet, tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny(epochs=1, tensorboard=True, model={"synthesis": False, "sharing": "none"})
    for overwrite in (False, True):
        train_run(config, tmp_path / "run", faces=faces, overwrite=overwrite)
        found = accumulator.EventAccumulator(str(RunFolder(tmp_path / "run").events))
        found.Reload()
        assert [value.step for value in found.Scalars("loss/generator")] == [1]


def test_an_epoch_is_written_with_its_gates(
    faces: FaceSet, tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tiny(epochs=1, tensorboard=True, loss={"adversarial": 0.0, "cycle": 0.0})
    Trainer(config, faces.subset(range(14)), None, RunFolder(tmp_path)).fit()
    found = accumulator.EventAccumulator(str(RunFolder(tmp_path).events))
    found.Reload()
    scalars, pictures = found.Tags()["scalars"], found.Tags()["images"]
    assert {"loss/classification", "accuracy/training", "learning_rate"} <= set(scalars)
    assert any(name.startswith("gates z/level 3, recognition from synthesis/fear") for name in scalars)
    assert any(name.startswith("gates/z x_from_y, level 1") for name in pictures)
    (value,) = found.Scalars("loss/generator")
    assert value.step == 1 and value.value == pytest.approx(
        RunFolder(tmp_path).read_stats()[0]["losses"]["generator"], rel=1e-5
    )
