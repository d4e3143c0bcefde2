from __future__ import annotations

from collections.abc import Callable

import pytest

from fer_mtl.evaluation.published import protocol_differences, published_accuracy
from fer_mtl.training.config import ModelConfig, TrainConfig
from fer_mtl.training.losses import LossWeights
from fer_mtl.training.presets import preset_config
from fer_mtl.training.settings import IdentityConfig

ALONE = ModelConfig(sharing="none", synthesis=False)


@pytest.mark.parametrize(
    ("changes", "accuracy"),
    [
        ({}, 0.9735),
        ({"init": "run"}, 0.9785),
        ({"synthetic": "faces"}, 0.9804),
        ({"model": ALONE}, 0.9466),
        ({"model": ALONE, "init": "run"}, None),
        ({"model": ALONE, "synthetic": "faces"}, None),
        ({"model": ModelConfig(sharing="hard")}, 0.9639),
        ({"model": ModelConfig(sharing="hard"), "init": "run"}, None),
        ({"model": ModelConfig(sharing="nddr")}, None),
        ({"train_subjects": 20}, None),
        ({"loss": LossWeights(identity=0, adversarial=0, cycle=0)}, None),
        ({"loss": LossWeights(cycle=0)}, None),
        ({"model": ModelConfig(levels=[2])}, None),
        ({"model": ModelConfig(levels=[1, 2, 3])}, 0.9735),
        ({"model": ALONE, "loss": LossWeights(cycle=0)}, 0.9466),
        ({"data": "procedural"}, None),
    ],
)
def test_a_run_stands_beside_the_row_it_repeats(changes: dict, accuracy: float | None) -> None:
    assert published_accuracy(TrainConfig(**{"data": "ck48:somewhere", **changes})) == accuracy


def test_differences_are_named(tiny: Callable[..., TrainConfig]) -> None:
    text = " ".join(protocol_differences(tiny(data="ck48:somewhere")))
    for said in ("48 x 48", "stratified", "4 folds, not 10", "last one", "32 pixels", "learnt mask"):
        assert said in text
    exact = TrainConfig(
        data="oulu_casia:x",
        fold_rule="sorted",
        selection="validation",
        identity=IdentityConfig(weights="lightcnn9.pth"),
    )
    assert len(protocol_differences(exact)) == 1


def test_another_recipe_and_other_views_are_differences() -> None:
    """Figures beside the paper's are due to them as much as to anything else."""
    text = " ".join(protocol_differences(preset_config("ck48", data="ck48:somewhere")))
    for said in ("ten views", "mixup 0.3 (0.0)", "epochs 40 (500)", "synthesis_every 8 (1)", "LightCNN-9"):
        assert said in text
    for said in ("loss.adversarial 0.03 (0.3)", "optimiser.schedule cosine (steps)"):
        assert said in text
    unknown = protocol_differences(preset_config("ck48", data="rafdb:somewhere", loss={"identity": 0.0}))
    assert not any("LightCNN-9" in line for line in unknown)  # there is no identity network at all
    alone = " ".join(protocol_differences(preset_config("ck48", data="ck48:somewhere", model=vars(ALONE))))
    assert "mixup 0.3 (0.0)" in alone
    for said in ("synthesis_every", "adversarial", "LightCNN-9", "learnt mask"):
        assert said not in alone
