"""`procedural`: an embedded data set of drawn faces, every subject in every expression. No files, seeded.

A picture depends only on (seed, subject, expression, repetition): asking for more subjects, more images or
other classes leaves the pictures that were there before unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fer_mtl.data.drawing.action_units import VARIANTS, controls_of, sample_units
from fer_mtl.data.drawing.face import Shot
from fer_mtl.data.drawing.identity import sample_identity
from fer_mtl.data.drawing.render import render
from fer_mtl.data.expressions import EXPRESSIONS
from fer_mtl.data.faceset import FaceSet, check_channels, stored_side
from fer_mtl.data.files import names_of
from fer_mtl.data.parallel import parallel_map
from fer_mtl.data.registry import register

_EXTENT = (
    0.9 * 110 / 96
)  # face units from the centre to the edge of a stored picture: the crop spans -0.9..0.9
_GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


@register(
    "procedural",
    summary="drawn faces, made on the spot: every subject shows every expression",
    layout="no files",
    obtain="embedded; options num_subjects, images_per_expression, variation, posed, seed, classes",
    needs_folder=False,
)
def load_procedural(
    *,
    image_size: int,
    channels: int = 3,
    num_subjects: int = 48,
    images_per_expression: int = 3,
    variation: float = 1.0,
    posed: bool = False,
    seed: int = 0,
    classes: Sequence[str] = EXPRESSIONS,
) -> FaceSet:
    """Draw num_subjects x len(classes) x images_per_expression faces, ordered by subject, class, repetition.

    variation: how much pose and light differ between the pictures of a subject, 0 (not at all, as in pictures
        aligned by the eyes and taken in one studio) to 1
    posed: everyone shows an expression in the same way, more or less strongly, as on instruction; otherwise
        in one of several, with more or fewer of its muscles, on either side
    classes: any of the seven expressions and "neutral", in the order of the labels
    """
    for name, value in (("num_subjects", num_subjects), ("images_per_expression", images_per_expression)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an int of at least 0, got {seed!r}")
    if isinstance(variation, bool) or not isinstance(variation, int | float) or not 0 <= variation <= 1:
        raise ValueError(f"variation must be a number between 0 and 1, got {variation!r}")
    if not isinstance(posed, bool):
        raise ValueError(f"posed must be True or False, got {posed!r}")
    classes = names_of(classes)
    unknown = [name for name in classes if name not in VARIANTS]
    if unknown or not classes:
        raise ValueError(f"classes must be some of {tuple(VARIANTS)}, got {classes}")

    side = stored_side(image_size)
    shown = [(name, i) for name in classes for i in range(images_per_expression)]
    images = torch.empty(num_subjects, len(shown), check_channels(channels), side, side, dtype=torch.uint8)

    def draw(subject: int) -> None:
        pixels = _draw_subject(subject, shown, seed, side, variation, posed)
        if channels == 1:
            pixels = (pixels * _GREY).sum(1, keepdim=True)
        images[subject] = (pixels * 255).round_().to(torch.uint8)

    parallel_map(draw, range(num_subjects))
    drawn_by = f"-{seed}" if seed else ""  # another seed draws other people
    ids = [f"P{subject:04d}{drawn_by}" for subject in range(num_subjects)]
    return FaceSet(
        name="procedural",
        classes=tuple(classes),
        images=images.flatten(0, 1),
        labels=torch.arange(len(classes)).repeat_interleave(images_per_expression).repeat(num_subjects),
        subjects=[subject for subject in ids for _ in shown],
        sources=[f"{subject}/{name}/{i}" for subject in ids for name, i in shown],
    )


def _draw_subject(
    subject: int, shown: list[tuple[str, int]], seed: int, side: int, variation: float, posed: bool
) -> torch.Tensor:
    """float32 [len(shown), 3, side, side] in 0..1, sensor noise included."""
    person = sample_identity(np.random.default_rng([seed, subject]))
    shots, noise = [], []
    for name, repetition in shown:
        code = tuple(VARIANTS).index(name)
        rng = np.random.default_rng([seed, subject, code, repetition])
        shots.append(_sample_shot(name, rng, variation, posed))
        noise.append(rng.standard_normal((1, side, side), dtype=np.float32) * rng.uniform(0.0, 0.02))
    pixels = render(person, shots, side, _EXTENT)
    return pixels.add_(torch.from_numpy(np.stack(noise))).clamp_(0, 1)


def _sample_shot(expression: str, rng: np.random.Generator, variation: float, posed: bool) -> Shot:
    """Expression intensity, pose and light of one picture."""
    controls = controls_of(sample_units(expression, rng.uniform(0.55, 1.0), rng, posed))

    def around(middle: float, low: float, high: float) -> float:
        """Between low and high, drawn towards the middle where there is less variation."""
        return middle + variation * (float(rng.uniform(low, high)) - middle)

    angle, strength = rng.uniform(0, 2 * np.pi), around(0.0, 0.0, 0.22)
    return Shot(
        controls=controls,
        roll=around(0.0, -0.14, 0.14),
        yaw=around(0.0, -0.10, 0.10),
        pitch=around(0.0, -0.06, 0.06),
        scale=around(1.0, 0.92, 1.06),
        shift=(around(0.0, -0.08, 0.08), around(0.0, -0.10, 0.04)),
        light=(strength * np.cos(angle), strength * np.sin(angle)),
        gain=around(1.0, 0.82, 1.1),
        warmth=around(0.0, -0.05, 0.05),
        gaze=(around(0.0, -0.03, 0.03), around(0.0, -0.01, 0.01)),
    )
