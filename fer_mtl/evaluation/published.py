"""The published figures that ours are set beside, and in what the protocols differ.

Zhao et al., ICPR 2020 (arXiv 2007.04514). The ablation is of an earlier submission and must not be mixed with
the other rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fer_mtl.training.config import TrainConfig
from fer_mtl.training.starting import data_name


@dataclass(frozen=True)
class Published:
    """``accuracy`` in 0..1 by data set."""

    row: str
    accuracy: dict[str, float]
    note: str


PUBLISHED = (
    Published(
        "FERSNet",
        {"ckplus": 0.9735, "oulu_casia": 0.8347, "mmi": 0.7131},
        "single image",
    ),
    Published(
        "FERSNet (BU-4DFE)",
        {"ckplus": 0.9785, "oulu_casia": 0.8923, "mmi": 0.7532},
        "single image, pre-trained on BU-4DFE",
    ),
    Published(
        "best other method in its tables",
        {"ckplus": 0.9755, "oulu_casia": 0.88, "mmi": 0.7628},
        "DMT-CNN (single image, pre-trained), DeRL (the same), LBVCNN (sequence, pre-trained)",
    ),
    Published(
        "Baseline",
        {"ckplus": 0.9466, "oulu_casia": 0.7333},
        "FER branch alone; ablation of an earlier submission",
    ),
    Published(
        "Baseline*",
        {"ckplus": 0.9639, "oulu_casia": 0.7792},
        "hard sharing of the first five blocks; ablation of an earlier submission",
    ),
    Published(
        "FERSNet (earlier submission)",
        {"ckplus": 0.9742, "oulu_casia": 0.83},
        "ablation of an earlier submission",
    ),
    Published(
        "FERSNet*",
        {"ckplus": 0.9804, "oulu_casia": 0.8763},
        "pre-trained, 21 K synthetic faces; ablation of an earlier submission",
    ),
)

# Our data sets by the one whose published figures come nearest.
NEAREST = {"ck48": "ckplus", "ckplus": "ckplus", "oulu_casia": "oulu_casia", "mmi": "mmi"}

# How a configuration says that every level shares, as in the paper.
ALL_LEVELS = (3, [1, 2, 3], (1, 2, 3))


# The settings of a training's recipe, beside its losses and optimiser.
ALWAYS = ("augmentation", "label_smoothing", "mixup", "average", "epochs", "batch_size")
SYNTHESIS = ("discriminator_steps", "synthesis_every")


def published_row(config: TrainConfig) -> Published | None:
    """The published row that a run of ``config`` repeats; None for comparators and changed methods."""
    model = config.model
    if config.train_subjects is not None or config.weighting != "fixed":
        return None
    losses = (config.loss.identity, config.loss.adversarial, config.loss.cycle)
    if model.synthesis and (not all(losses) or model.levels not in ALL_LEVELS):
        return None
    as_published = config.init is None and config.synthetic is None  # of these rows, which start afresh
    if not model.synthesis and as_published:
        name = "Baseline"
    elif model.sharing == "hard" and as_published:
        name = "Baseline*"
    elif model.sharing == "convflu":
        name = "FERSNet*" if config.synthetic is not None else "FERSNet"
        name = "FERSNet (BU-4DFE)" if config.init is not None and config.synthetic is None else name
    else:
        return None
    return next(row for row in PUBLISHED if row.row == name)


def published_accuracy(config: TrainConfig) -> float | None:
    """The figure of :func:`published_row` on the data set nearest to ours."""
    row, data = published_row(config), NEAREST.get(data_name(config.data))
    return None if row is None or data is None else row.accuracy.get(data)


def changed_recipe(config: TrainConfig) -> list[str]:
    """The settings of a training that differ from the public code's (the defaults), as "epochs 40 (500)".

    Recognition alone is not asked for what only synthesis has.
    """
    ours, theirs = (_recipe(some, config.model.synthesis) for some in (config, TrainConfig()))
    return [f"{name} {ours[name]} ({theirs[name]})" for name in ours if ours[name] != theirs[name]]


def _recipe(config: TrainConfig, synthesis: bool) -> dict[str, Any]:
    names = [*ALWAYS, *(SYNTHESIS if synthesis else ())]
    losses = vars(config.loss) if synthesis else {"classification": config.loss.classification}
    return {
        **{name: getattr(config, name) for name in names},
        **{f"loss.{name}": value for name, value in losses.items()},
        **{f"optimiser.{name}": value for name, value in vars(config.optimiser).items()},
    }


def protocol_differences(config: TrainConfig) -> list[str]:
    """In what a run differs from the paper's protocol, one sentence each."""
    data, found = data_name(config.data), []
    if data not in NEAREST:
        found.append(f"The paper has no figures on {data}.")
    if data == "ck48":
        found.append(
            "CK+48 holds the same sequences and frames as the paper's CK+, but cropped by others to 48 x 48 "
            "grey pixels; the paper crops from the full-size frames."
        )
    if config.fold_rule == "stratified":
        found.append(
            "Folds are stratified by expression and grouped by subject; the public code takes subjects in "
            "sorted order, which leaves most contempt images of CK+ in one fold."
        )
    if config.folds != 10 and config.fold_rule != "official":
        found.append(f"{config.folds} folds, not 10.")
    found.append(
        "The epoch is "
        + ("the last one" if config.selection == "last" else "chosen on validation subjects")
        + "; the public code chooses the best one on the test fold, which flatters."
    )
    if config.views != "center":
        found.append(
            {
                "mirror": "A tested face is read together with its mirror image",
                "ten": "A tested face is read in ten views of it",
            }[config.views]
            + "; the public code reads the centre crop alone."
        )
    if changed := changed_recipe(config):
        found.append(f"Trained otherwise (in brackets the public code): {', '.join(changed)}.")
    features = config.loss.identity * config.loss.features
    if config.model.synthesis and features and config.identity.weights is None:
        found.append(
            "The identity features are a small encoder's that was trained on the training subjects; the "
            "paper's are LightCNN-9's."
        )
    if config.model.image_size != 96 or config.model.width != 1.0:
        found.append(
            f"Images of {config.model.image_size} pixels and a network of width {config.model.width:g}; the "
            "paper has 96 pixels and width 1."
        )
    if config.model.synthesis and config.model.blend:
        found.append(
            "The decoder lays its drawing over the source through a learnt mask; the paper's draws the "
            "whole face."
        )
    return found
