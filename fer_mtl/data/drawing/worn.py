"""What sits on a face: beards and glasses."""

from __future__ import annotations

import torch

from fer_mtl.data.drawing.canvas import SIDES, Canvas, Field, ellipse, rounded_box, shade, stroke
from fer_mtl.data.drawing.face import Face
from fer_mtl.data.drawing.identity import EYE_Y


def draw_beard(canvas: Canvas, face: Face, head: Field) -> None:
    person = face.person
    if person.beard == "none":
        return
    colour = shade(person.brow_colour, 1.1)
    x, y = face.at_depth(canvas, 0.75)
    mouth = person.mouth_height
    lift = 0.3 * face.both("corner_up")
    if person.beard in ("full", "stubble"):
        line = mouth - 0.03 - lift - 0.42 * (x.abs() / person.width) ** 3
        shape = torch.maximum(head + 0.03, line - y)
        canvas.paint(shape, colour, opacity=0.9 if person.beard == "full" else 0.25, soft=0.05)
    if person.beard in ("full", "goatee"):
        chin = ellipse(x, y - mouth - 0.22 - 0.6 * face.jaw, 0.20, 0.17)
        canvas.paint(torch.maximum(chin, head + 0.02), colour, opacity=0.9, soft=0.04)
    if person.beard != "stubble":
        for side in SIDES:
            height = mouth - 0.105 - face.half("lip_up", side) - 0.02
            end = mouth - 0.03 - face.half("corner_up", side)
            wide = person.mouth_width + face.half("corner_out", side) + 0.02
            hair = stroke(side * x, y, (0.0, height + 0.02), height - 0.02, (wide, end), 0.045, taper=0.6)
            canvas.paint(hair, colour, soft=0.02)


def draw_glasses(canvas: Canvas, face: Face) -> None:
    person = face.person
    if person.glasses == "none":
        return
    window = canvas.window(-0.85, 0.85, -0.45, 0.30)
    x, y = face.at_depth(window, 0.9)
    frame = person.glasses_colour
    v = y - EYE_Y - 0.02
    for side in SIDES:
        u = side * x - person.eye_x - 0.01
        lens = (
            ellipse(u, v, 0.22, 0.21) if person.glasses == "round" else rounded_box(u, v, 0.225, 0.165, 0.06)
        )
        window.paint(lens, (0.9, 0.96, 1.0), opacity=0.12)
        window.paint(lens.abs() - 0.016, frame)
        window.paint(
            stroke(side * x, v, (person.eye_x + 0.23, -0.04), -0.05, (person.width, -0.06), 0.013), frame
        )
    window.paint(stroke(x, v, (-0.08, -0.02), -0.07, (0.08, -0.02), 0.014), frame)
