"""Facial action units (FACS) as two tables: what each unit moves, and which units make an expression.

Source of the unit numbers and of the combinations: P. Ekman, W. Friesen, J. Hager, "Facial Action Coding
System", 2002, and its emotional subset EMFACS. How far a unit moves the drawn face is our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

CONTROLS = (
    "brow_inner", "brow_mid", "brow_outer", "brow_close",  # heights, and towards the nose
    "upper_lid", "lower_lid",  # opening of the upper lid (fraction), raising of the lower one (fraction)
    "lip_up", "lip_down", "corner_up", "corner_out", "lip_thin", "part", "jaw", "square",
    "forehead_mid", "forehead_side", "glabella", "crow", "cheek", "nose_wrinkle", "nostril",
    "nasolabial", "dimple", "chin",  # strength of folds, 0..1
)  # fmt: skip
"""What the drawing can do. Heights and widths are in face units (0.9 = half the width of the crop)."""

# unit: (name, {control: amount at full intensity})
ACTION_UNITS: dict[int, tuple[str, dict[str, float]]] = {
    1: ("inner brow raiser", {"brow_inner": 0.17, "brow_mid": 0.05, "forehead_mid": 1.0}),
    2: ("outer brow raiser", {"brow_outer": 0.13, "brow_mid": 0.11, "forehead_side": 1.0}),
    4: (
        "brow lowerer",
        {"brow_inner": -0.11, "brow_mid": -0.07, "brow_outer": -0.01, "brow_close": 0.06, "glabella": 1.0},
    ),
    5: ("upper lid raiser", {"upper_lid": 0.5}),
    6: ("cheek raiser", {"lower_lid": 0.95, "upper_lid": -0.15, "cheek": 1.0, "crow": 1.0}),
    7: ("lid tightener", {"lower_lid": 0.5, "upper_lid": -0.3}),
    9: (
        "nose wrinkler",
        {
            "nose_wrinkle": 1.0, "brow_inner": -0.08, "brow_mid": -0.03, "brow_close": 0.03, "lip_up": 0.05,
            "lower_lid": 0.35, "upper_lid": -0.2, "nostril": 0.6, "nasolabial": 0.5,
        },
    ),
    10: (
        "upper lip raiser",
        {"lip_up": 0.10, "square": 0.3, "corner_up": -0.02, "nasolabial": 0.8, "nostril": 0.5},
    ),
    12: ("lip corner puller", {"corner_up": 0.14, "corner_out": 0.10, "nasolabial": 0.7, "cheek": 0.4}),
    14: ("dimpler", {"dimple": 1.0, "corner_out": 0.03, "corner_up": 0.03, "lip_thin": 0.15}),
    15: ("lip corner depressor", {"corner_up": -0.14, "corner_out": -0.02}),
    16: ("lower lip depressor", {"lip_down": 0.08, "part": 0.02, "square": 0.6, "corner_up": -0.04}),
    17: ("chin raiser", {"chin": 1.0, "lip_down": -0.04, "lip_up": 0.02}),
    20: ("lip stretcher", {"corner_out": 0.13, "corner_up": -0.05, "lip_thin": 0.3, "square": 0.6}),
    23: ("lip tightener", {"lip_thin": 0.65, "corner_out": -0.06}),
    24: ("lip pressor", {"lip_thin": 0.5, "corner_out": -0.03}),
    25: ("lips part", {"part": 0.06}),
    26: ("jaw drop", {"jaw": 0.18, "part": 0.19, "corner_out": -0.10}),
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One way to show an expression: units with their typical intensity (0..1).

    one_sided units act on one random half of the face; optional ones appear half of the time.
    """

    units: dict[int, float]
    optional: dict[int, float] = field(default_factory=dict)
    one_sided: bool = False


VARIANTS: dict[str, tuple[Variant, ...]] = {
    "anger": (
        Variant({4: 1.0, 5: 0.5, 7: 0.8, 23: 0.9, 24: 0.6}, {17: 0.6}),  # lips pressed
        Variant({4: 1.0, 5: 0.5, 7: 0.7, 10: 0.6, 16: 0.6, 23: 0.4, 25: 0.7}, {26: 0.3}),  # teeth shown
    ),
    "contempt": (Variant({12: 0.75, 14: 1.0}, {10: 0.4, 2: 0.4}, one_sided=True),),
    "disgust": (
        Variant({9: 1.0, 10: 0.7, 15: 0.5, 17: 0.5}, {7: 0.4}),
        Variant({9: 1.0, 10: 1.0, 16: 0.5, 25: 0.7}, {26: 0.3, 15: 0.4}),
    ),
    "fear": (
        Variant({1: 1.0, 2: 0.5, 4: 0.5, 5: 1.0, 7: 0.2, 20: 0.9, 25: 0.7}, {26: 0.4}),
        Variant({1: 1.0, 2: 0.4, 4: 0.5, 5: 0.9, 20: 1.0, 16: 0.5, 25: 0.4}),
    ),
    "happiness": (
        Variant({6: 0.8, 12: 1.0}, {25: 0.3}),  # closed smile
        Variant({6: 1.0, 12: 1.0, 25: 1.0}, {26: 0.5, 10: 0.2}),  # open smile
    ),
    "sadness": (
        Variant({1: 1.0, 4: 0.6, 15: 1.0}, {17: 0.7, 7: 0.2}),
        Variant({1: 0.9, 4: 0.4, 15: 0.9, 17: 0.8}, {6: 0.25, 25: 0.2}),
    ),
    "surprise": (
        Variant({1: 1.0, 2: 1.0, 5: 0.8, 25: 0.5, 26: 1.0}),
        Variant({1: 0.9, 2: 1.0, 5: 0.9, 25: 0.6, 26: 0.6}),
    ),
    "neutral": (Variant({}),),
}

_UNITS = tuple(ACTION_UNITS)
_MATRIX = np.array([[ACTION_UNITS[u][1].get(c, 0.0) for c in CONTROLS] for u in _UNITS])


def sample_units(
    expression: str, intensity: float, rng: np.random.Generator, posed: bool = False
) -> dict[int, tuple[float, float]]:
    """Draw the units of one face: unit -> (intensity left, intensity right), each in 0..1.

    expression: a name of VARIANTS; intensity: overall strength in 0..1. Every unit varies by itself, the
    halves of the face differ a little, and a faint unrelated unit may appear, as in photographs. Not so where
    ``posed``: only the units of the first way and their strength.
    """
    variants = VARIANTS[expression]
    variant = variants[0 if posed else rng.integers(len(variants))]
    levels = dict(variant.units)
    for unit, level in ({} if posed else variant.optional).items():
        if rng.random() < 0.5:
            levels[unit] = level
    side = 0 if posed else rng.integers(2)
    units = {}
    for unit, level in levels.items():
        level = level * intensity * rng.uniform(0.8, 1.15)
        halves = [level * rng.uniform(0.88, 1.12) for _ in range(2)]
        if variant.one_sided:
            halves[side] *= 0.08
        units[unit] = (min(halves[0], 1.0), min(halves[1], 1.0))
    if posed:
        return units
    stray = int(rng.choice((1, 2, 4, 5, 7, 12, 15, 17, 25)))
    strength = float(rng.uniform(0.0, 0.22))
    if stray not in units:
        units[stray] = (strength, strength)
    return units


def controls_of(units: dict[int, tuple[float, float]]) -> np.ndarray:
    """Add up what the units do: float64 [len(CONTROLS), 2] for the left and right half of the face."""
    levels = np.zeros((len(_UNITS), 2))
    for unit, halves in units.items():
        levels[_UNITS.index(unit)] = halves
    return _MATRIX.T @ levels
