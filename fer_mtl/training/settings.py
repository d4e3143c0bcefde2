"""Groups of settings inside :class:`fer_mtl.training.config.TrainConfig`; how a bad value is refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fer_mtl.models.sharing import SHARING

CONVENTIONS = ("accept", "keep")
SCHEDULES = ("steps", "cosine")


def check(name: str, value: object, allowed: str, ok: bool) -> None:
    """Raise ``ValueError`` with one clear line unless ``ok``."""
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    check(name, value, "one of " + ", ".join(choices), value in choices)


def check_seed(name: str, value: int, bits: int = 63) -> None:
    """As ``check``; ``bits`` are what the generator takes."""
    check(name, value, f"between 0 and 2**{bits} - 1", 0 <= value < 2**bits)


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
    blend: bool = False
    """Lay the drawn face over the source through a learnt mask; false draws all of it, as the paper does."""

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
    """The highest rate of the schedule."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two averages."""
    weight_decay: float = 5e-4
    """Adam's L2 penalty, added to the gradients."""
    milestones: tuple[float, ...] = (0.3, 0.8)
    """Fractions of the epochs after which the rate is multiplied by `gamma` (150 and 400 of 500)."""
    gamma: float = 0.1
    """What the rate is multiplied by at a milestone."""
    schedule: str = "steps"
    """steps (multiply at the milestones) or cosine (fall to zero along half a cosine)."""
    warmup: float = 0.0
    """Fraction of the epochs, w of them, over which the rate first rises: after e epochs it is
    (e + 0.5) / (w + 0.5) of itself, so with w = 2 it starts at a fifth."""

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
        check_choice("optimiser.schedule", self.schedule, SCHEDULES)
        check("optimiser.warmup", self.warmup, "in [0, 1)", 0 <= self.warmup < 1)


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
