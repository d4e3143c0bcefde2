from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from fer_mtl.data.drawing.action_units import controls_of
from fer_mtl.data.drawing.face import Shot
from fer_mtl.data.drawing.identity import BEARDS, HAIR_STYLES, sample_identity
from fer_mtl.data.drawing.render import render

PERSON = replace(sample_identity(np.random.default_rng(4)), hair="short", beard="none", glasses="none")


def shot(units: dict[int, tuple[float, float]] | None = None, **changes: object) -> Shot:
    still = Shot(
        controls=controls_of(units or {}), roll=0.0, yaw=0.0, pitch=0.0, scale=1.0, shift=(0.0, 0.0),
        light=(0.0, 0.0), gain=1.0, warmth=0.0, gaze=(0.0, 0.0),
    )  # fmt: skip
    return replace(still, **changes)


def picture(*shots: Shot, person=PERSON, size: int = 80) -> torch.Tensor:
    return render(person, list(shots), size, 1.0)


def where_changed(one: Shot, two: Shot) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of the difference, in face units."""
    a, b = picture(one, two)
    changed = (a - b).abs().sum(0) > 0.05
    columns, rows = changed.any(0).nonzero().flatten(), changed.any(1).nonzero().flatten()
    return tuple(float(i) / 40 - 1 for i in (columns[0], columns[-1], rows[0], rows[-1]))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("unit", "top", "bottom"),
    [
        (1, -0.75, -0.1),
        (4, -0.6, -0.1),
        (5, -0.4, 0.1),
        (6, -0.3, 0.5),
        (12, 0.0, 0.8),
        (15, 0.1, 0.8),
        (26, 0.15, 1.0),
    ],
)
def test_a_unit_moves_its_part_of_the_face_alone(unit: int, top: float, bottom: float) -> None:
    _, _, first, last = where_changed(shot(), shot({unit: (1.0, 1.0)}))
    assert top <= first and last <= bottom


def test_a_one_sided_unit_moves_one_half() -> None:
    left, right, _, _ = where_changed(shot(), shot({2: (1.0, 0.0)}))
    assert left < -0.2 and right < 0.05
    left, right, _, _ = where_changed(shot(), shot({2: (0.0, 1.0)}))
    assert left > -0.05 and right > 0.2


def test_a_still_bare_face_is_symmetric() -> None:
    person = replace(PERSON, hair="bald", mole=None, freckles=False)
    image = picture(shot(), person=person)[0][:, 25:]  # below the shine of the bald head
    # The glint in the eyes and the shaded side of the nose are on one side.
    assert ((image - image.flip(2)).abs().sum(0) > 0.1).float().mean() < 0.02


def test_pose_moves_the_whole_picture() -> None:
    plain, shifted = picture(shot(), shot(shift=(0.25, 0.0)), size=80)
    assert torch.allclose(plain[:, 20:60, 20:60], shifted[:, 20:60, 30:70], atol=1e-3)
    dark, bright = picture(shot(gain=0.5), shot())
    assert torch.allclose(2 * dark, bright, atol=1e-3)


def test_shots_of_a_batch_do_not_disturb_each_other() -> None:
    shots = [shot({26: (1.0, 1.0)}, roll=0.1), shot({4: (1.0, 1.0)}, scale=0.9), shot()]
    together = picture(*shots)
    for one, image in zip(shots, together, strict=True):
        assert torch.allclose(picture(one)[0], image, atol=1e-4)


@pytest.mark.parametrize(("hair", "beard"), list(zip(HAIR_STYLES, cycle(BEARDS), strict=False)))
def test_every_style_is_drawn_and_differs(hair: str, beard: str) -> None:
    image = picture(shot(), person=replace(PERSON, hair=hair, beard=beard, glasses="round"), size=48)[0]
    assert image.isfinite().all() and float(image.min()) >= 0 and float(image.max()) <= 1
    bare = picture(shot(), person=replace(PERSON, hair="bald", beard="none"), size=48)[0]
    assert not torch.allclose(image, bare, atol=0.05)


def test_extreme_shots_are_finite() -> None:
    everything = {unit: (1.0, 1.0) for unit in (1, 2, 5, 6, 9, 10, 12, 14, 16, 20, 25, 26)}
    pressed = {unit: (1.0, 1.0) for unit in (4, 7, 15, 17, 23, 24)}
    assert picture(shot(everything, roll=0.5), shot(pressed, scale=0.5)).isfinite().all()
