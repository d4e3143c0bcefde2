"""The mouth: the busiest part of a face."""

from __future__ import annotations

import torch

from fer_mtl.data.drawing.canvas import SIDES, Canvas, ellipse, shade
from fer_mtl.data.drawing.face import Face


def draw_mouth(canvas: Canvas, face: Face) -> None:
    """Lips, the gap, teeth and tongue: all are graphs over t = -1..1 from corner to corner."""
    person = face.person
    window = canvas.window(-0.62, 0.62, 0.15, 1.05)
    x, y = face.at_depth(window, 0.85)
    widths = [(person.mouth_width + face.half("corner_out", side)).clamp(min=0.15) for side in SIDES]
    lifts = [person.mouth_corner + face.half("corner_up", side) for side in SIDES]
    t = x / torch.where(x < 0, widths[0], widths[1])
    beyond = (t.abs() - 1).clamp(min=0) * person.mouth_width
    t = t.clamp(-1, 1)
    at, bow = t.abs(), 1 - t * t

    # Corners move up or down; the middle yields a little the other way, as skin is stretched.
    lift = torch.where(x < 0, lifts[0], lifts[1])
    centre = person.mouth_height + 0.3 * (lifts[0] + lifts[1]) / 2 - lift * at * at * (1.7 - 0.5 * at)
    # The gap is a lens between soft lips, a box between stretched ones, round when the jaw drops.
    round_, square = (face.jaw * 8).clamp(0, 1), face.both("square").clamp(0, 1)
    profile = torch.lerp(torch.lerp(bow, 1 - t**6, square), bow.sqrt(), round_)

    raised = (face.half("lip_up", -1) * (1 - t) + face.half("lip_up", 1) * (1 + t)).clamp(min=0) / 2
    part, droop = face.both("part").clamp(min=0), face.both("lip_down")
    # Lips that only rise or sink together stay closed.
    is_open = ((part + droop.clamp(min=0) + 0.4 * raised) * 30 - 0.5).clamp(0, 1)
    top = centre - 0.8 * raised * (0.3 + 0.7 * bow) - 0.35 * part * profile
    bottom = top + (1.35 * part + 0.5 * face.jaw + droop + 0.3 * raised).clamp(min=0) * profile * is_open
    thickness = person.lip * (1 - face.both("lip_thin")).clamp(min=0.12) * bow.sqrt() * (0.4 + 0.6 * bow)
    cupid = 1 - 0.35 * torch.exp(-((t / 0.16) ** 2)) + 0.25 * torch.exp(-(((at - 0.3) / 0.22) ** 2))
    upper, lower = top - 1.1 * thickness * cupid, bottom + 1.5 * thickness

    steep = (1 + (3.0 * lift.abs() * at / person.mouth_width) ** 2).sqrt()
    lips = torch.maximum(upper - y, y - lower) / steep + beyond
    gap = torch.maximum(top - y, y - bottom) / steep + beyond
    shadow = torch.maximum(lower - y, y - lower - 0.04) / steep + beyond + 0.02
    window.paint(shadow, shade(person.skin, 0.75), opacity=0.5, soft=0.05)
    window.paint(lips, person.lip_colour)
    window.paint(torch.maximum(lips, y - top), shade(person.lip_colour, 0.82), opacity=0.7)
    shine = ellipse(x, y - bottom - 0.7 * thickness, 0.09, 0.014)
    window.paint(torch.maximum(shine, bottom - y), (1.0, 0.95, 0.95), opacity=0.3, soft=0.03)
    window.paint(gap, (0.28, 0.07, 0.08), opacity=is_open)
    tongue = ellipse(x, y - bottom - 0.02, 0.15, 0.09)
    window.paint(torch.maximum(tongue, gap), (0.80, 0.36, 0.38), opacity=is_open)
    inside = gap + 0.006
    window.paint(torch.maximum(inside, y - top - 0.055 - 0.25 * raised), (0.98, 0.97, 0.94), opacity=is_open)
    lower_teeth = torch.maximum(inside, bottom - y - 0.9 * droop.clamp(min=0))
    window.paint(lower_teeth, (0.93, 0.92, 0.88), opacity=is_open * (droop > 0.015))
    dark = shade(person.lip_colour, 0.40)
    for edge, opacity in ((top, 0.9), (bottom, 0.6)):
        window.paint((y - edge).abs() / steep + beyond - 0.009, dark, opacity)
    for side, width, corner in zip(SIDES, widths, lifts, strict=True):
        end = person.mouth_height + 0.15 * (lifts[0] + lifts[1]) - 1.2 * corner
        window.paint(ellipse(x - side * width, y - end, 0.022, 0.020), dark, opacity=0.8, soft=0.01)
