"""The rows of the paper's ablation and the comparators: what each changes in one and the same trainer.

``--method NAME`` on the command line stands for these settings.
"""

from __future__ import annotations

from typing import Any

from fer_mtl.models.sharing import SHARING
from fer_mtl.training.config import TrainConfig

METHODS: dict[str, dict[str, Any]] = {
    "baseline": {"model.sharing": "none", "model.synthesis": False},
    "baseline*": {"model.sharing": "hard"},
    "fersnet": {"model.sharing": "convflu"},
    "fersnet-keep": {"model.sharing": "convflu", "model.convention": "keep"},
    "two-branches": {"model.sharing": "none"},
    **{name: {"model.sharing": name} for name in SHARING if name not in ("convflu", "hard", "none")},
}

TITLES = {
    "none": "two branches without sharing",
    "hard": "Baseline* (hard sharing)",
    "convflu": "FERSNet (ConvFLU)",
    "cross_stitch": "cross-stitch",
    "sluice": "sluice",
    "nddr": "NDDR",
    "mtan": "MTAN",
    "pad": "PAD-Net",
}


def method_of(config: TrainConfig) -> str:
    """The name of a run's method in tables, from what the run was told to do and nothing else."""
    model = config.model
    if not model.synthesis:
        name = "Baseline (FER branch alone)"
    elif model.sharing == "convflu" and config.synthetic is not None:
        name = "FERSNet* (balanced and enlarged)"
    else:
        name = TITLES[model.sharing]
    notes = []
    if config.init is not None and config.synthetic is None:
        notes.append("pre-trained")
    if config.synthetic is not None and not name.startswith("FERSNet*"):
        notes.append("with synthetic faces")
    if model.sharing == "convflu" and model.convention != "accept":
        notes.append(f"convention {model.convention}")
    if model.levels != TrainConfig().model.levels and model.sharing != "none":
        notes.append(f"levels {model.levels}")
    if model.synthesis:
        notes += [
            f"no {term} loss"
            for term in ("identity", "adversarial", "cycle")
            if not getattr(config.loss, term)
        ]
    if config.weighting != "fixed":
        notes.append(f"weighting {config.weighting}")
    if config.train_subjects is not None:
        notes.append(f"{config.train_subjects} training subjects")
    return name + (", " + ", ".join(notes) if notes else "")
