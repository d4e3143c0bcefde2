from __future__ import annotations

import pytest

from fer_mtl.training.presets import PRESETS, defaults, preset_config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_configuration(name: str) -> None:
    config = preset_config(name)
    assert config.preset == name
    for setting, value in defaults(name).items():
        found = config
        for part in setting.split("."):
            found = getattr(found, part)
        assert found == value


def test_paper_is_the_published_recipe() -> None:
    config = preset_config("paper")
    assert (config.epochs, config.model.width, config.model.image_size) == (500, 1.0, 96)


def test_an_override_changes_only_what_it_names() -> None:
    plain, changed = preset_config("small"), preset_config("small", epochs=3, model={"sharing": "hard"})
    assert (changed.epochs, changed.model.sharing) == (3, "hard")
    assert (changed.model.width, changed.batch_size) == (plain.model.width, plain.batch_size)


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ValueError, match="preset must be one of paper, small, ck48, got 'large'"):
        preset_config("large")
