from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.models.sharing import SHARING
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.methods import METHODS, method_of
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.starting import part_of
from fer_mtl.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]


def config_of(tiny: Tiny, name: str, **more: object) -> TrainConfig:
    model = {key.removeprefix("model."): value for key, value in METHODS[name].items()}
    return tiny(model=model, **more)


def test_every_sharing_is_a_method_and_names_differ(tiny: Tiny) -> None:
    configs = [config_of(tiny, name) for name in METHODS]
    assert {config.model.sharing for config in configs} == set(SHARING)
    assert len({method_of(config) for config in configs}) == len(METHODS)


@pytest.mark.parametrize(
    ("name", "more", "title"),
    [
        ("fersnet", {}, "FERSNet (ConvFLU)"),
        ("fersnet", {"synthetic": "faces"}, "FERSNet* (balanced and enlarged)"),
        ("fersnet", {"synthetic": "faces", "init": "other"}, "FERSNet* (balanced and enlarged)"),
        ("baseline", {"init": "other"}, "Baseline (FER branch alone), pre-trained"),
        ("baseline", {}, "Baseline (FER branch alone)"),
        ("baseline*", {"train_subjects": 20}, "Baseline* (hard sharing), 20 training subjects"),
        ("nddr", {"loss": {"identity": 0.0}}, "NDDR, no identity loss"),
        ("pad", {"weighting": "mgda"}, "PAD-Net, weighting mgda"),
    ],
)
def test_a_name_says_what_was_changed(tiny: Tiny, name: str, more: dict, title: str) -> None:
    assert method_of(config_of(tiny, name, **more)) == title


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains(tiny: Tiny, faces: FaceSet, tmp_path: Path, name: str) -> None:
    """One step, as the command makes it, moves every weight of the way of sharing."""
    trainer = Trainer(config_of(tiny, name), faces, None, RunFolder(tmp_path))
    sharing = {
        key: value.clone()
        for key, value in trainer.networks.generator.named_parameters()
        if "sharing" in part_of(key)
    }
    trainer.begin_epoch()
    trainer.step(trainer.batches()[0])
    moved = dict(trainer.networks.generator.named_parameters())
    assert all(not torch.equal(moved[key], before) for key, before in sharing.items())
