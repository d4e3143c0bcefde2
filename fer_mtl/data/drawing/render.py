"""Painting one identity in a batch of poses, lights and expressions."""

from __future__ import annotations

import torch

from fer_mtl.data.drawing.canvas import SIDES, Canvas, Field, ellipse, shade
from fer_mtl.data.drawing.face import Face, Shot
from fer_mtl.data.drawing.features import draw_brows, draw_eyes, draw_nose
from fer_mtl.data.drawing.folds import draw_folds
from fer_mtl.data.drawing.hair import draw_back_hair, draw_hair
from fer_mtl.data.drawing.identity import Identity
from fer_mtl.data.drawing.mouth import draw_mouth
from fer_mtl.data.drawing.worn import draw_beard, draw_glasses


def render(person: Identity, shots: list[Shot], size: int, extent: float) -> torch.Tensor:
    """Paint the person once per shot: float32 [len(shots), 3, size, size] in 0..1.

    extent: face units from the centre of the picture to its edge
    """
    face = Face(person, shots)
    line = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 * extent / size) - extent
    px, py = line.view(1, 1, -1) - face.shift_x, line.view(1, -1, 1) - face.shift_y
    cos, sin = torch.cos(face.roll) / face.scale, torch.sin(face.roll) / face.scale
    x, y = cos * px + sin * py, cos * py - sin * px
    pixels = torch.empty(len(shots), 3, size, size)
    canvas = Canvas(pixels, x, y, (2 * extent / size) / face.scale)

    background = torch.tensor(person.background).view(1, 3, 1, 1)
    pixels.copy_(background * (1.06 - 0.12 * (line.view(1, 1, -1, 1) + extent) / (2 * extent)))
    head = face.head(canvas)
    draw_back_hair(canvas, face, head)
    _draw_neck(canvas, face)
    _draw_head(canvas, face, head)
    draw_folds(canvas, face)
    draw_beard(canvas, face, head)
    draw_mouth(canvas, face)
    draw_eyes(canvas, face)
    draw_nose(canvas, face)
    draw_hair(canvas, face, head)
    draw_brows(canvas, face)
    draw_glasses(canvas, face)

    glow = face.gain + face.light_x * x.clamp(-1, 1) + face.light_y * y.clamp(-1, 1)
    tint = 1 + face.warmth.unsqueeze(1) * torch.tensor([1.0, 0.1, -1.0]).view(1, 3, 1, 1)
    return (pixels * glow.unsqueeze(1) * tint).clamp_(0, 1)


def _draw_neck(canvas: Canvas, face: Face) -> None:
    person = face.person
    x, y = face.at_depth(canvas, -0.3)
    dark = shade(person.skin, 0.80)
    canvas.paint(torch.maximum(x.abs() - 0.55 * person.width, 0.4 - y), dark)
    canvas.paint(ellipse(x, y - 1.55, 1.05, 0.52), person.shirt)
    canvas.paint(ellipse(x, y - 1.02, 0.36, 0.14), dark)


def _draw_head(canvas: Canvas, face: Face, head: Field) -> None:
    person = face.person
    y = canvas.y
    for side in SIDES:
        window = canvas.half(side, 0.4, 1.0, -0.3, 0.4)
        wx, wy = face.at_depth(window, -0.1)
        ear = ellipse(wx - side * person.width * 0.99, wy - 0.03, person.ears, 0.16)
        window.paint(ear, shade(person.skin, 0.93))
        window.paint(ear + 0.045, shade(person.skin, 0.78), soft=0.03)
    skin = torch.tensor(person.skin).view(1, 3, 1, 1)
    # The edge of a rounded head turns away from the light.
    edge = 1 - 0.22 * torch.exp(head.clamp(max=0) * 9) - 0.05 * (y.clamp(min=0)) ** 2
    canvas.paint(head, skin * edge.unsqueeze(1))
    _draw_cheeks(canvas.window(-0.75, 0.75, -0.1, 0.6), face)


def _draw_cheeks(canvas: Canvas, face: Face) -> None:
    person = face.person
    x, y = face.at_depth(canvas, 0.6)
    for side in SIDES:
        lift = 0.05 * face.half("cheek", side)
        cheek = ellipse(x - side * 0.36, y - 0.27 + lift, 0.15, 0.12)
        blush = (0.86 * person.skin[0] + 0.1, 0.55 * person.skin[1], 0.55 * person.skin[2])
        canvas.paint(cheek, blush, opacity=person.blush + 0.15 * face.half("cheek", side), soft=0.22)
    if person.freckles:
        for dx, dy in ((-0.42, 0.2), (-0.33, 0.25), (-0.26, 0.19), (0.25, 0.2), (0.33, 0.26), (0.42, 0.21)):
            canvas.paint(ellipse(x - dx, y - dy, 0.016, 0.016), shade(person.skin, 0.72), 0.7)
    if person.mole:
        canvas.paint(ellipse(x - person.mole[0], y - person.mole[1], 0.02, 0.02), shade(person.skin, 0.35))
