"""Every choice of a training run, as plain dataclasses.

jsonargparse turns them into options (``--optimiser.learning_rate 3e-4``), YAML (``--config``) and
``--print_config``. The defaults are the published ones (FERSNet, ICPR 2020, and its public training code); a
preset (:mod:`fer_mtl.training.presets`) fills in others before the file and the command line are read.

Bad values raise ``ValueError`` naming the field, what it got and what is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from fer_mtl.data.folds import RULES
from fer_mtl.models.sharing import SHARING
from fer_mtl.training import augmentation
from fer_mtl.training.losses import LossWeights

SELECTIONS = ("last", "validation")
CONVENTIONS = ("accept", "keep")
DEVICES = ("auto", "cpu", "cuda")

T = TypeVar("T")


def check(name: str, value: object, allowed: str, ok: bool) -> None:
    """Raise ``ValueError`` with one clear line unless ``ok``."""
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    check(name, value, "one of " + ", ".join(choices), value in choices)


@dataclass
class ModelConfig:
    """The arguments of `fer_mtl.FERSNet` (the number of expressions comes from the data)."""

    image_size: int = 96
    """Side of the square input in pixels, divisible by 32."""
    width: float = 1.0
    """Multiplier on every layer's channels."""
    sharing: str = "convflu"
    """How the two branches share features: convflu, none, hard, cross_stitch, sluice, nddr, mtan or pad."""
    convention: str = "accept"
    """What the update gate z means: "accept" (the paper) or "keep" (the public code)."""
    in_channels: int = 3
    """3 for colour, 1 for grey."""
    kernel_size: int = 1
    """Odd kernel of the gates."""
    levels: int | list[int] = 3
    """The levels that share: the first n of three, or their numbers."""
    recompute: bool = False
    """Keep only the features for the backward pass and compute the gates again."""
    synthesis: bool = True
    """False builds and trains the recognition branch alone, without the GAN (the paper's Baseline)."""

    def __post_init__(self) -> None:
        check(
            "model.image_size",
            self.image_size,
            "a positive multiple of 32",
            self.image_size > 0 and self.image_size % 32 == 0,
        )
        check("model.width", self.width, "positive", self.width > 0)
        check_choice("model.sharing", self.sharing, tuple(SHARING))
        check_choice("model.convention", self.convention, CONVENTIONS)
        check("model.in_channels", self.in_channels, "1 (grey) or 3 (colour)", self.in_channels in (1, 3))
        check(
            "model.kernel_size",
            self.kernel_size,
            "odd and positive",
            self.kernel_size > 0 and self.kernel_size % 2 == 1,
        )
        self.levels = list(self.levels) if isinstance(self.levels, (list, tuple)) else self.levels
        check(
            "model.sharing",
            self.sharing,
            "none without synthesis (there is nothing to share)",
            self.synthesis or self.sharing == "none",
        )


@dataclass
class OptimiserConfig:
    """Adam and its schedule, the same for both networks."""

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two averages."""
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.3, 0.8)
    """Fractions of the epochs after which the rate is multiplied by `gamma` (150 and 400 of 500)."""
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        self.milestones = tuple(float(m) for m in self.milestones)
        check("optimiser.learning_rate", self.learning_rate, "positive", self.learning_rate > 0)
        check("optimiser.betas", self.betas, "two numbers in [0, 1)", all(0 <= b < 1 for b in self.betas))
        check("optimiser.weight_decay", self.weight_decay, "0 or more", self.weight_decay >= 0)
        check(
            "optimiser.milestones",
            self.milestones,
            "increasing fractions between 0 and 1",
            list(self.milestones) == sorted(self.milestones) and all(0 < m < 1 for m in self.milestones),
        )
        check("optimiser.gamma", self.gamma, "in (0, 1]", 0 < self.gamma <= 1)


@dataclass
class IdentityConfig:
    """The frozen network whose features tell whether a synthesised face is still the same person."""

    weights: str | None = None
    """LightCNN-9 weights of yours; without them a small encoder is trained on the training subjects first."""
    epochs: int = 5
    """Epochs of that small encoder."""
    width: float = 0.5
    """Its channels, as a multiple of 32, 64, 128, 128."""

    def __post_init__(self) -> None:
        check("identity.epochs", self.epochs, "1 or more", self.epochs >= 1)
        check("identity.width", self.width, "positive", self.width > 0)


@dataclass
class TrainConfig:
    """A training run. Everything that changes its result is in here."""

    preset: str = "small"
    """Where the other defaults come from: small (two CPU cores) or paper (as published)."""
    data: str = "procedural"
    """What to train on: NAME or NAME:FOLDER, see `fer-mtl datasets`."""
    data_options: dict[str, Any] = field(default_factory=dict)
    """Options of that data set, such as `--data_options.num_subjects 100`."""
    skip_bad_images: bool = False
    """Leave unreadable images out and list them, instead of stopping."""
    fold: int | None = 0
    """Which fold is tested; null trains on every subject and tests on none."""
    folds: int = 10
    """How many subject-independent folds there are."""
    fold_rule: str = "stratified"
    """stratified (by expression, grouped by subject), sorted (the public code's tenths in order) or official
    (the data set's own training and test parts, as fold 0)."""
    fold_seed: int = 0
    selection: str = "last"
    """Which epoch is kept: last, or by validation on some of the training subjects. Never by the test fold.
    """
    validation_fraction: float = 0.1
    """Share of the training subjects that selects, when selection is validation."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    augmentation: str = "paper"
    """none, paper (random crop and flip) or strong (geometry and light as well)."""
    epochs: int = 500
    batch_size: int = 8
    discriminator_steps: int = 3
    """Discriminator updates for each update of the generator."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; the last epoch is always kept."""
    seed: int = 0
    threads: int | None = None
    """CPU threads; null leaves torch's choice."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        check("data", self.data, "NAME or NAME:FOLDER", bool(self.data))
        check("folds", self.folds, "2 or more", self.folds >= 2)
        check(
            "fold",
            self.fold,
            f"null or between 0 and {self.folds - 1}",
            self.fold is None or 0 <= self.fold < self.folds,
        )
        check_choice("fold_rule", self.fold_rule, RULES)
        check(
            "fold",
            self.fold,
            "0 or null with fold_rule official, which is one fold",
            self.fold_rule != "official" or self.fold in (0, None),
        )
        check_choice("selection", self.selection, SELECTIONS)
        check("validation_fraction", self.validation_fraction, "in (0, 1)", 0 < self.validation_fraction < 1)
        check_choice("augmentation", self.augmentation, augmentation.NAMES)
        for name in ("epochs", "batch_size", "discriminator_steps", "checkpoint_every"):
            check(name, getattr(self, name), "1 or more", getattr(self, name) >= 1)
        check("batch_size", self.batch_size, "2 or more (batch normalisation)", self.batch_size >= 2)
        check("seed", self.seed, "between 0 and 2**63 - 1", 0 <= self.seed < 2**63)
        check("threads", self.threads, "null or 1 or more", self.threads is None or self.threads >= 1)
        check_choice("device", self.device, DEVICES)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, lists, strings and numbers: what YAML and ``weights_only`` checkpoints can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass ``kind`` from nested dictionaries. ``ValueError`` for an unknown key lists the known."""
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown setting {where}{unknown[0]}; known are {', '.join(names)}")
    nested = {
        name: from_dict(hints[name], value, f"{where}{name}.")
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping)
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in values.items()
    }
    return kind(**nested)
