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
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fer_mtl.data.folds import RULES
from fer_mtl.evaluation.predict import VIEWS
from fer_mtl.training import augmentation
from fer_mtl.training.losses import LossWeights
from fer_mtl.training.settings import (
    IdentityConfig,
    ModelConfig,
    OptimiserConfig,
    check,
    check_choice,
    check_seed,
)
from fer_mtl.training.weighting import WEIGHTINGS

SELECTIONS = ("last", "validation")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")
# What `restart` may name: the parts of FERSNet.parameter_counts, and the style layers of the decoder.
PARTS = ("stem", "fer", "fes", "sharing", "joint", "classifier", "decoder", "style")
# The settings that name other runs, or what was made from them.
BUILT_ON = ("init", "synthetic", "judge")
# What a continuation may change: where a run is trained, not what. Other threads give other last bits.
PLACE = ("threads", "device")

T = TypeVar("T")


@dataclass
class TrainConfig:
    """A training run. Everything that changes its result is in here."""

    preset: str = "small"
    """Where the other defaults come from: small (two CPU cores), ck48 (small, for few grey
    faces aligned by the eyes) or paper (as published)."""
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
    """Another seed deals the subjects out to the folds otherwise."""
    selection: str = "last"
    """Which epoch is kept: last, or by validation on some of the training subjects. Never by the test fold.
    """
    validation_fraction: float = 0.1
    """Share of the training subjects that selects, when selection is validation."""
    train_subjects: int | None = None
    """Train on so many of the fold's training subjects only (for learning curves); null takes all."""
    optimistic: bool = False
    """Also report the accuracy of the epoch that is best on the TEST fold, labelled optimistic; never used.
    """
    init: str | None = None
    """Start from the generator of this run (pre-training, then fine-tuning)."""
    restart: tuple[str, ...] = ("decoder", "style")
    """With init: the parts that start afresh, of stem, fer, fes, sharing, joint, classifier, decoder, style;
    classifier and style must where init knows other expressions."""
    synthetic: str | None = None
    """Also train on the synthetic faces of this manifest (see `fer-mtl balance`)."""
    mix: float = 0.5
    """With synthetic: the share of synthetic faces among the images of an epoch."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    augmentation: str = "paper"
    """none, paper (random crop and flip), strong (geometry and light as well) or geometric (more of it)."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all expressions in the recognition loss."""
    weighting: str = "fixed"
    """How the tasks' losses are weighed: fixed, uncertainty, or a gradient method (pcgrad, mgda, aligned)."""
    average: float = 0.0
    """Decay of the running average of the generator's weights that is kept and tested; 0 keeps the weights.
    """
    mixup: float = 0.0
    """Where recognition is trained alone: the largest share of another face mixed into a face and its label.
    """
    views: str = "center"
    """What is recognised of a tested face: center, mirror (with its mirror image) or ten (also four crops
    half-way to the corners, and theirs)."""
    epochs: int = 500
    """How often every training image is seen."""
    batch_size: int = 8
    """Images in a step."""
    discriminator_steps: int = 3
    """Discriminator updates for each update of the generator."""
    synthesis_every: int = 1
    """The synthesis branch learns in every so many-th step; the other steps train recognition alone."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; the last epoch is always kept."""
    seed: int = 0
    """Of weights, batches, targets and augmentation."""
    threads: int | None = None
    """CPU threads; null leaves torch's choice."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: str = "float32"
    """float32, or bfloat16 where it does no harm (autocast); weights, losses and tests stay float32. Faster
    where the processor or card multiplies bfloat16 (AVX512-BF16, AMX, CUDA from Ampere on), else slower."""
    judge: str | None = None
    """A run whose recogniser reads the synthesised faces in the report, in place of the trained one."""
    tensorboard: bool = False
    """Also write losses, accuracies and gates as TensorBoard events."""

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
        check(
            "validation_fraction",
            self.validation_fraction,
            "above 0 and at most 0.5",
            0 < self.validation_fraction <= 0.5,
        )
        check_choice("augmentation", self.augmentation, augmentation.NAMES)
        self.restart = tuple(self.restart)
        for part in self.restart:
            check_choice("restart", part, PARTS)
        few = self.train_subjects is not None and self.train_subjects < 2
        check("train_subjects", self.train_subjects, "null or 2 or more", not few)
        check("mix", self.mix, "in (0, 1)", 0 < self.mix < 1)
        check("label_smoothing", self.label_smoothing, "in [0, 1)", 0 <= self.label_smoothing < 1)
        check_choice("weighting", self.weighting, WEIGHTINGS)
        check(
            "weighting",
            self.weighting,
            "fixed without synthesis (there is one task)",
            self.model.synthesis or self.weighting == "fixed",
        )
        check("mixup", self.mixup, "in [0, 0.5]", 0 <= self.mixup <= 0.5)
        check(
            "mixup",
            self.mixup,
            "0 where every step trains synthesis (synthesis_every 1): of a mixture there is no true picture",
            not self.mixup or self.synthesis_every > 1 or not self.model.synthesis,
        )
        check_choice("views", self.views, VIEWS)
        check(
            "loss.expression",
            self.loss.expression,
            "0 without average (the running average reads the faces)",
            not self.loss.expression or self.average > 0,
        )
        check("average", self.average, "in [0, 1)", 0 <= self.average < 1)
        for name in ("epochs", "batch_size", "discriminator_steps", "synthesis_every", "checkpoint_every"):
            check(name, getattr(self, name), "1 or more", getattr(self, name) >= 1)
        check("batch_size", self.batch_size, "2 or more (batch normalisation)", self.batch_size >= 2)
        check_seed("seed", self.seed)
        check_seed("fold_seed", self.fold_seed, bits=32)  # of scikit-learn
        check("threads", self.threads, "null or 1 or more", self.threads is None or self.threads >= 1)
        check_choice("device", self.device, DEVICES)
        check_choice("precision", self.precision, PRECISIONS)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, lists, strings and numbers: what YAML and ``weights_only`` checkpoints can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass ``kind`` from nested dictionaries. ``ValueError`` for an unknown key lists the known, for
    a value of another type than its setting's it names both."""
    check(where.removesuffix(".") or "the content", values, "settings by name", isinstance(values, Mapping))
    hints = get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown setting {where}{unknown[0]}; known are {', '.join(names)}")
    read = {}
    for name, value in values.items():
        hint = hints[name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not isinstance(value, hint):
            value = from_dict(hint, value, f"{where}{name}.")
        allowed = hint.__name__ if isinstance(hint, type) else str(hint)
        check(f"{where}{name}", value, allowed, fits(value, hint))
        read[name] = tuple(value) if isinstance(value, list) else value
    return kind(**read)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a setting's type; a list may stand for a tuple, a whole number for any."""
    kind, of = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(fits(value, one) for one in of)
    if kind in (list, tuple):
        items = isinstance(value, (list, tuple)) and all(fits(item, of[0]) for item in value)
        return items and (kind is list or Ellipsis in of or len(value) == len(of))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, kind or hint)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = ()) -> list[str]:
    """Where two configurations, as of :func:`to_dict`, differ, in words; some may be ``free`` to."""
    before, now = _flat(old), _flat(new)
    pairs = {name: (before.get(name, "nothing"), now.get(name, "nothing")) for name in {**now, **before}}
    return [
        f"{name} was {a!r}, now {b!r}"
        for name, (a, b) in pairs.items()
        if a != b and name.partition(".")[0] not in free
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
