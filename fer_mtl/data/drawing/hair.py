"""Hair, hats and scarves: what hangs behind the head, and what covers its top."""

from __future__ import annotations

import torch

from fer_mtl.data.drawing.canvas import Canvas, Field, ellipse, rounded_box, shade
from fer_mtl.data.drawing.face import Face


def _locks(canvas: Canvas, face: Face, x: Field, y: Field, waves: float) -> torch.Tensor:
    """Hair colour with strands and a soft highlight, [B, 3, H, W]."""
    angle = torch.atan2(x, 1.1 - y)
    strands = 1 + 0.09 * torch.sin(angle * waves) + 0.05 * torch.sin(angle * waves * 2.3 + 1)
    radius = (x * x + y * y).sqrt()
    shine = 0.16 * torch.exp(-((radius - 0.78) ** 2) * 90) * (-3 * y - 0.6).clamp(0, 1)
    colour = torch.tensor(face.person.hair_colour).view(1, 3, 1, 1)
    return (colour * strands.unsqueeze(1) + shine.unsqueeze(1)).clamp(0, 1)


def draw_back_hair(canvas: Canvas, face: Face, head: Field) -> None:
    """Paint what is seen behind the neck and the ears."""
    person, style = face.person, face.person.hair
    if style not in ("long", "bob", "curly", "bun", "scarf", "hat"):
        return
    x, y = face.at_depth(canvas, -0.4)
    dark = shade(person.hair_colour, 0.72)
    w = person.width
    if style == "long":
        canvas.paint(rounded_box(x, y - 0.35, w + 0.17, 1.25, 0.75), dark)
    elif style == "bob":
        canvas.paint(rounded_box(x, y + 0.02, w + 0.16, 0.88, 0.60), dark)
    elif style == "curly":
        angle = torch.atan2(x, y)
        canvas.paint(ellipse(x, y + 0.22, w + 0.24, 0.86) - 0.035 * torch.sin(angle * 17), dark)
    elif style == "bun":
        canvas.paint(ellipse(x, y + person.top + 0.08, 0.26, 0.22), _locks(canvas, face, x, y, 40))
    elif style == "hat":
        canvas.paint(ellipse(x, y + person.top + 0.12, 0.15, 0.14), shade(person.shirt, 1.25))
    else:
        canvas.paint(rounded_box(x, y - 0.6, w + 0.14, 0.9, 0.5), shade(person.shirt, 0.7))


def draw_hair(canvas: Canvas, face: Face, head: Field) -> None:
    """Paint what covers the top of the head: the region of the grown outline above a hairline."""
    person, style = face.person, face.person.hair
    x, y = face.at_depth(canvas, 0.35)
    ax = x.abs()
    if style == "bald":
        canvas.paint(ellipse(x + 0.18, y + 0.62, 0.16, 0.08), (1.0, 1.0, 1.0), opacity=0.22, soft=0.12)
        return
    if style == "scarf":
        inner = ellipse(x, y - 0.08, person.width * 0.90, 0.74)
        folds = 1 + 0.07 * torch.sin(16 * (ax - 0.5 * y))
        cloth = torch.tensor(person.shirt).view(1, 3, 1, 1) * folds.unsqueeze(1)
        canvas.paint(torch.maximum(head - 0.09, -inner), cloth.clamp(0, 1))
        return
    if style == "hat":
        shape = torch.maximum(head - 0.09, y + 0.44 + 0.12 * x * x)
        knit = 1 + 0.10 * torch.sin(34 * x)
        cloth = torch.tensor(person.shirt).view(1, 3, 1, 1) * knit.unsqueeze(1)
        canvas.paint(shape, cloth.clamp(0, 1))
        rim = torch.maximum(shape, -(y + 0.60 + 0.12 * x * x))
        canvas.paint(rim, shade(person.shirt, 1.25))
        return
    line, grow = _hairline(style, face, x, y)
    shape = torch.maximum(head - grow, y - line)
    if style == "spiky":
        shape = torch.maximum(
            head - grow - 0.10 * torch.sin(26 * x + 2).abs() * (-5 * y - 2).clamp(0, 1), y - line
        )
    if style == "curly":
        shape = shape - 0.03 * torch.sin(22 * torch.atan2(x, 0.4 - y))
    shadow = torch.maximum(shape - 0.03, head + 0.03)
    canvas.paint(shadow, shade(person.skin, 0.7), opacity=0.4, soft=0.08)
    canvas.paint(shape, _locks(canvas, face, x, y, 60 if style != "curly" else 25))


def _hairline(style: str, face: Face, x: Field, y: Field) -> tuple[Field, float]:
    """Height of the hairline at x, and by how much the hair outgrows the head."""
    person = face.person
    ax = x.abs()
    # Sideburns: the line falls to the ears near the outline.
    side = ((ax - person.width * 0.80) / (person.width * 0.12)).clamp(0, 1) ** 2
    if style == "receding":
        return -0.95 + 1.0 * (ax / person.width) ** 3, 0.05
    if style == "short":
        return -0.60 + 0.10 * ax + 0.55 * side, 0.05
    if style == "spiky":
        return -0.58 + 0.05 * torch.sin(30 * x) + 0.50 * side, 0.06
    if style == "side_part":
        sweep = (x * (1 if person.parting > 0 else -1) + abs(person.parting)).abs()
        return -0.68 + 0.34 * sweep.sqrt() + 0.35 * side, 0.09
    if style == "fringe":
        return -0.44 + 0.02 * torch.sin(23 * x) + 0.02 * torch.sin(41 * x) + 0.45 * side, 0.07
    if style == "bob":
        long_side = ((ax - person.width * 0.86) / (person.width * 0.05)).clamp(0, 1)
        return -0.46 + 0.015 * torch.sin(37 * x) + 1.05 * long_side, 0.10
    if style == "long":
        part = (x - person.parting * 0.5).abs()
        return -0.74 + 0.75 * part.sqrt() * part + 1.2 * ((ax - person.width * 0.86) / 0.06).clamp(0, 1), 0.10
    if style == "curly":
        return -0.52 + 0.45 * side, 0.14
    return -0.64 + 0.18 * ax + 0.40 * side, 0.05  # bun: combed back
