from __future__ import annotations

import re

import pytest
import yaml

from fer_mtl.training.config import ModelConfig, OptimiserConfig, TrainConfig, from_dict, to_dict


def test_the_defaults_are_the_published_ones() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.discriminator_steps) == (500, 8, 3)
    assert (config.optimiser.learning_rate, config.optimiser.betas) == (1e-4, (0.5, 0.999))
    assert config.optimiser.weight_decay == 5e-4
    assert [round(m * config.epochs) for m in config.optimiser.milestones] == [150, 400]
    assert (config.loss.identity, config.loss.adversarial, config.loss.cycle) == (1.0, 0.3, 0.5)
    assert (config.model.width, config.model.image_size) == (1.0, 96)


def test_a_configuration_survives_yaml() -> None:
    config = TrainConfig(
        epochs=7,
        fold=None,
        model=ModelConfig(width=0.5, levels=[2, 3]),
        optimiser=OptimiserConfig(milestones=(0.5,)),
        data_options={"seed": 3},
    )
    assert from_dict(TrainConfig, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"batch_size": 1}, "batch_size must be 2 or more"),
        ({"fold": 10}, "fold must be null or between 0 and 9, got 10"),
        ({"fold": 3, "fold_rule": "official"}, "fold must be 0 or null with fold_rule official"),
        ({"folds": 1}, "folds must be 2 or more"),
        ({"fold_seed": -1}, "fold_seed must be between 0 and 2**32 - 1, got -1"),
        ({"seed": 2**63}, "seed must be between 0 and 2**63 - 1"),
        ({"train_subjects": 0}, "train_subjects must be null or 2 or more, got 0"),
        ({"selection": "test"}, "selection must be one of last, validation, got 'test'"),
        ({"fold_rule": "random"}, "fold_rule must be one of stratified, sorted"),
        ({"mixup": 0.3}, "mixup must be 0 where every step trains synthesis"),
        ({"augmentation": "wild"}, "augmentation must be one of"),
        ({"device": "tpu"}, "device must be one of"),
        ({"validation_fraction": 1.0}, "validation_fraction must be above 0 and at most 0.5"),
        ({"model": {"image_size": 50}}, "model.image_size must be a positive multiple of 32, got 50"),
        ({"model": {"sharing": "osmosis"}}, "model.sharing must be one of convflu, none, hard"),
        ({"model": {"kernel_size": 2}}, "model.kernel_size must be odd"),
        ({"model": {"synthesis": False}}, "model.sharing must be none without synthesis"),
        ({"optimiser": {"learning_rate": -1.0}}, "optimiser.learning_rate must be positive, got -1.0"),
        ({"optimiser": {"milestones": [0.8, 0.3]}}, "optimiser.milestones must be increasing"),
        ({"loss": {"identity": -1.0}}, "loss.identity must be 0 or more, got -1.0"),
        ({"identity": {"epochs": 0}}, "identity.epochs must be 1 or more"),
        ({"epoch": 3}, "unknown setting epoch; known are"),
        ({"optimiser": {"lr": 3}}, "unknown setting optimiser.lr; known are learning_rate"),
        # As people write them into a config.yaml; YAML takes 1e-3 for a word.
        ({"epochs": "many"}, "epochs must be int, got 'many'"),
        ({"fold": "0"}, "fold must be int | None, got '0'"),
        ({"epochs": True}, "epochs must be int, got True"),
        ({"model": {"width": None}}, "model.width must be float, got None"),
        ({"optimiser": {"learning_rate": "1e-3"}}, "optimiser.learning_rate must be float, got '1e-3'"),
        ({"optimiser": {"betas": [0.5]}}, "optimiser.betas must be tuple[float, float], got [0.5]"),
        ({"restart": ["style", 3]}, "restart must be tuple[str, ...], got ['style', 3]"),
        ({"data_options": 3}, "data_options must be dict[str, typing.Any], got 3"),
        ({"model": 3}, "model must be settings by name, got 3"),
        (None, "the content must be settings by name, got None"),
    ],
)
def test_a_bad_value_names_the_setting(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        from_dict(TrainConfig, values)
    assert "\n" not in str(error.value)
