"""Who is drawn: everything of a face that stays when its expression changes."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""Red, green, blue in 0..1."""

EYE_Y = -0.10
BROW_Y = -0.32
"""Heights of the eyes and of the brows at rest, alike in all faces."""

SKINS: tuple[Colour, ...] = (
    (0.99, 0.88, 0.80), (0.98, 0.82, 0.71), (0.94, 0.75, 0.61), (0.89, 0.67, 0.50),
    (0.80, 0.57, 0.41), (0.68, 0.46, 0.32), (0.55, 0.36, 0.25), (0.44, 0.29, 0.21),
)  # fmt: skip
HAIR_COLOURS: tuple[Colour, ...] = (
    (0.10, 0.09, 0.10), (0.20, 0.13, 0.10), (0.34, 0.21, 0.13), (0.47, 0.30, 0.17), (0.60, 0.29, 0.14),
    (0.85, 0.66, 0.36), (0.93, 0.80, 0.54), (0.62, 0.61, 0.62), (0.88, 0.87, 0.86),
)  # fmt: skip
DYES: tuple[Colour, ...] = ((0.80, 0.30, 0.45), (0.30, 0.45, 0.70), (0.45, 0.33, 0.62), (0.22, 0.55, 0.50))
IRISES: tuple[Colour, ...] = (
    (0.26, 0.15, 0.08), (0.36, 0.22, 0.11), (0.30, 0.42, 0.28), (0.25, 0.44, 0.62), (0.40, 0.47, 0.52),
)  # fmt: skip
HAIR_STYLES = (
    "bald", "receding", "short", "side_part", "spiky", "fringe", "bob", "long", "curly", "bun", "scarf",
    "hat",
)  # fmt: skip
BEARDS = ("none", "stubble", "moustache", "goatee", "full")


@dataclass(frozen=True)
class Identity:
    """One drawn person. Lengths are in face units (0.9 = half the width of the crop), y points down."""

    width: float  # half width of the head
    top: float  # height of the skull above the origin
    chin: float  # depth of the chin below the origin
    jaw: float  # exponent of the jaw's outline: 2 round, 3 square
    ears: float
    skin: Colour
    blush: float
    freckles: bool
    mole: tuple[float, float] | None
    hair: str
    hair_colour: Colour
    parting: float
    brow_colour: Colour
    brow_thickness: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    eye_x: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    iris: Colour
    iris_size: float
    lashes: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    mouth_corner: float
    lip: float
    lip_colour: Colour
    beard: str
    glasses: str
    glasses_colour: Colour
    shirt: Colour
    background: Colour


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    r, g, b_ = (x + (y - x) * t for x, y in zip(a, b, strict=True))
    return (r, g, b_)


def _below(colour: Colour, brightness: float) -> Colour:
    """The colour, darkened where needed so that it stands out from the skin."""
    factor = min(1.0, 3 * brightness / sum(colour))
    r, g, b = (channel * factor for channel in colour)
    return (r, g, b)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.04) -> Colour:
    base = colours[int(rng.integers(len(colours)))]
    shift = rng.uniform(-spread, spread)
    r, g, b = (float(np.clip(channel + shift, 0.02, 0.98)) for channel in base)
    return (r, g, b)


def _hue(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw a person: independent choices, but for what must go together (no beard with lipstick)."""
    bearded = rng.random() < 0.35
    skin = _pick(rng, SKINS, 0.02)
    natural = HAIR_COLOURS if sum(skin) > 1.5 else (*HAIR_COLOURS[:3], HAIR_COLOURS[7])
    hair_colour = _pick(rng, DYES if rng.random() < 0.08 else natural)
    masculine = ("bald", "receding", "short", "side_part", "spiky", "fringe", "curly", "hat")
    hair = str(rng.choice(masculine if bearded else HAIR_STYLES[2:]))
    natural_lip = _mix(skin, (0.72, 0.25, 0.25), 0.45)
    lipstick = not bearded and rng.random() < 0.3
    return Identity(
        width=rng.uniform(0.60, 0.72),
        top=rng.uniform(0.80, 0.90),
        chin=rng.uniform(0.80, 0.92),
        jaw=rng.uniform(2.0, 3.0),
        ears=rng.uniform(0.09, 0.13),
        skin=skin,
        blush=rng.uniform(0.05, 0.35),
        freckles=bool(rng.random() < 0.15),
        mole=(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.2, 0.3))) if rng.random() < 0.15 else None,
        hair=hair,
        hair_colour=hair_colour,
        parting=float(rng.choice((-1.0, 1.0))) * rng.uniform(0.15, 0.35),
        brow_colour=_below(_mix(hair_colour, (0.12, 0.08, 0.06), 0.5), 0.5 * sum(skin) / 3),
        brow_thickness=rng.uniform(0.026, 0.055) * (1.15 if bearded else 1.0),
        brow_height=rng.uniform(-0.025, 0.025),
        brow_arch=rng.uniform(0.0, 0.05),
        brow_tilt=rng.uniform(-0.02, 0.02),
        eye_x=rng.uniform(0.27, 0.32),
        eye_width=rng.uniform(0.145, 0.175),
        eye_open=rng.uniform(0.085, 0.115),
        eye_tilt=rng.uniform(-0.08, 0.14),
        iris=_pick(rng, IRISES),
        iris_size=rng.uniform(0.078, 0.092),
        lashes=0.0 if bearded else rng.uniform(0.0, 1.0),
        nose_width=rng.uniform(0.09, 0.14),
        nose_length=rng.uniform(0.20, 0.27),
        mouth_width=rng.uniform(0.24, 0.31),
        mouth_height=rng.uniform(0.47, 0.52),
        mouth_corner=rng.uniform(-0.015, 0.02),
        lip=rng.uniform(0.028, 0.055) * (0.8 if bearded else 1.0),
        lip_colour=_mix(natural_lip, (0.78, 0.12, 0.22), 0.75) if lipstick else natural_lip,
        beard=str(rng.choice(BEARDS[1:])) if bearded else "none",
        glasses=str(rng.choice(("round", "square"))) if rng.random() < 0.25 else "none",
        glasses_colour=(0.08, 0.08, 0.10) if rng.random() < 0.6 else _hue(rng, (0.3, 0.7), (0.3, 0.6)),
        shirt=_hue(rng, (0.3, 0.7), (0.35, 0.85)),
        background=_hue(rng, (0.08, 0.35), (0.6, 0.95)),
    )
