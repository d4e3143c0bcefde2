"""The parts of a face that move: brows, eyes, nose, mouth, folds of the skin; and what is worn over them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from fer_mtl.data.drawing.canvas import Canvas, Field, ellipse, rounded_box, stroke

if TYPE_CHECKING:
    from fer_mtl.data.drawing.face import Face

EYE_Y = -0.10
BROW_Y = -0.32
SIDES = (-1, 1)


def _shade(colour: Iterable[float], factor: float) -> list[float]:
    return [min(1.0, factor * c) for c in colour]


def draw_brows(canvas: Canvas, face: Face) -> None:
    person = face.person
    window = canvas.window(-0.7, 0.7, -0.75, 0.05)
    for side in SIDES:
        x, y = face.at_depth(window, 0.8)
        inner = 0.10 - face.half("brow_close", side)
        base = BROW_Y - person.brow_height
        start = base + person.brow_tilt - face.half("brow_inner", side)
        end = base - person.brow_tilt + 0.03 - face.half("brow_outer", side)
        # The control point of a quadratic lies twice as far out as the curve goes.
        peak = base - person.brow_arch - face.half("brow_mid", side)
        middle = 2 * peak - (start + end) / 2
        shape = stroke(side * x, y, (inner, start), middle, (0.46, end), person.brow_thickness, taper=0.55)
        window.paint(shape, person.brow_colour, soft=0.015)


def draw_eyes(canvas: Canvas, face: Face) -> None:
    person = face.person
    lash_colour = (0.10, 0.07, 0.07)
    for side in SIDES:
        window = canvas.window(*sorted((side * 0.0, side * 0.62)), -0.42, 0.22)  # type: ignore[misc]
        x, y = face.at_depth(window, 0.7)
        u, v = side * x - person.eye_x, y - EYE_Y
        v = v + person.eye_tilt * u
        wide, raised = face.half("upper_lid", side), face.half("lower_lid", side)
        t = (u / person.eye_width).clamp(-1, 1)
        beyond = (u.abs() - person.eye_width).clamp(min=0)
        bow = 1 - t * t
        up = person.eye_open * (1 + 0.85 * wide).clamp(min=0.35)
        down = person.eye_open * (0.75 - 0.85 * raised).clamp(min=-0.25)
        slope = (1 + (2 * t * up / person.eye_width) ** 2).sqrt()
        upper, lower = -(up * bow + 0.012), down * bow + 0.012
        opening = torch.maximum((upper - v) / slope, (v - lower) / slope) + beyond
        lid = _shade(person.skin, 0.86)
        window.paint(torch.maximum((upper - 0.055 - v) / slope, (v - upper) / slope) + beyond, lid, soft=0.02)
        window.paint(opening, (0.97, 0.97, 0.96))
        window.paint(torch.maximum(opening, v - upper - 0.045), (0.70, 0.72, 0.75), opacity=0.6, soft=0.03)
        gx, gy = u - side * face.gaze_x, v + 0.012 - face.gaze_y
        for radius, colour in (
            (person.iris_size, _shade(person.iris, 0.65)),
            (person.iris_size - 0.016, person.iris),
            (person.iris_size * 0.5, (0.03, 0.03, 0.04)),
        ):
            window.paint(torch.maximum(ellipse(gx, gy, radius, radius), opening), colour)
        spark = ellipse(gx * side + 0.028, gy + 0.03, 0.020, 0.020)
        window.paint(torch.maximum(spark, opening), (1.0, 1.0, 1.0), opacity=0.95)
        lash = ((v - upper) / slope).abs() + beyond - (0.013 + 0.010 * person.lashes)
        window.paint(lash, lash_colour)
        if person.lashes > 0.45:
            flick = stroke(
                u, v, (person.eye_width * 0.8, -0.02), -0.025, (person.eye_width + 0.06, -0.055), 0.014, 0.6
            )
            window.paint(flick, lash_colour)
        window.paint(((v - lower) / slope).abs() + beyond - 0.006, _shade(person.skin, 0.55), opacity=0.8)


def draw_nose(canvas: Canvas, face: Face) -> None:
    person = face.person
    window = canvas.window(-0.35, 0.35, -0.35, 0.45)
    x, y = face.at_depth(window, 1.0)
    tip = EYE_Y + 0.06 + person.nose_length
    rise = 0.03 * face.both("nose_wrinkle") + 0.01 * face.both("nostril")
    y = y + rise
    wide = person.nose_width * (1 + 0.22 * face.both("nostril"))
    line = _shade(person.skin, 0.58)
    shade = stroke(y, x, (EYE_Y, -0.05), -0.04, (tip - 0.06, -wide * 0.75), 0.022)
    window.paint(shade, _shade(person.skin, 0.8), opacity=0.45, soft=0.05)
    window.paint(ellipse(x, y - tip + 0.05, 0.045, 0.05), (1.0, 1.0, 1.0), opacity=0.22, soft=0.05)
    for side in SIDES:
        wing = stroke(y, side * x, (tip - 0.09, wide * 0.95), wide * 1.45, (tip + 0.01, wide * 0.75), 0.012)
        window.paint(wing, line, opacity=0.8)
        window.paint(ellipse(side * x - wide * 0.42, y - tip - 0.012, wide * 0.30, 0.017), _shade(line, 0.6))
    window.paint(stroke(x, y, (-wide * 0.5, tip + 0.01), tip + 0.05, (wide * 0.5, tip + 0.01), 0.008), line, 0.7)


def draw_mouth(canvas: Canvas, face: Face) -> None:
    person = face.person
    window = canvas.window(-0.62, 0.62, 0.15, 0.98)
    x, y = face.at_depth(window, 0.85)
    left, right = (
        (person.mouth_width + face.half("corner_out", side)).clamp(min=0.14) for side in SIDES
    )
    lift_left, lift_right = (person.mouth_corner + face.half("corner_up", side) for side in SIDES)
    t = x / torch.where(x < 0, left, right)
    beyond = (t.abs() - 1).clamp(min=0) * person.mouth_width
    t = t.clamp(-1, 1)
    at = t.abs()
    # Corners move up or down; the middle yields a little the other way, as skin is stretched.
    lift = torch.where(x < 0, lift_left, lift_right) * (1.25 * at * (0.35 + 0.65 * at) - 0.25)
    centre = person.mouth_height - lift
    bow = 1 - t * t
    round_ = bow.sqrt()

    raised = (face.half("lip_up", -1) * (1 - t) + face.half("lip_up", 1) * (1 + t)) / 2
    part = face.both("part").clamp(min=0)
    droop = face.both("lip_down")
    profile = torch.lerp(bow, round_, (face.jaw * 7).clamp(0, 1))
    gap_up = (0.35 * part + 0.75 * raised).clamp(min=0) * profile
    gap_down = (part + 0.6 * face.jaw + droop).clamp(min=0) * profile
    # Lips that only rise or sink together stay closed.
    is_open = ((part + droop.clamp(min=0) + 0.5 * raised.clamp(min=0)) * 30 - 0.4).clamp(0, 1)
    top = centre - gap_up
    bottom = torch.lerp(top + 0 * gap_down, centre + gap_down, is_open)
    thin = (1 - face.both("lip_thin")).clamp(min=0.12)
    cupid = 1 - 0.35 * torch.exp(-((t / 0.16) ** 2)) + 0.25 * torch.exp(-(((at - 0.3) / 0.22) ** 2))
    upper_lip = person.lip * thin * profile * cupid
    lower_lip = 1.35 * person.lip * thin * profile * (1 + droop.clamp(-0.3, 0.1) * 2)

    steep = (1 + (1.6 * lift.abs() / person.mouth_width + (gap_down + gap_up) / 0.25) ** 2).sqrt()
    lips = torch.maximum(top - upper_lip - y, y - bottom - lower_lip) / steep + beyond
    gap = torch.maximum(top - y, y - bottom) / steep + beyond
    window.paint(torch.maximum(bottom + lower_lip - y, y - bottom - lower_lip - 0.05) / steep + beyond + 0.02,
                 _shade(person.skin, 0.80), opacity=0.5, soft=0.05)  # fmt: skip
    window.paint(lips, person.lip_colour)
    window.paint(torch.maximum(lips, y - top), _shade(person.lip_colour, 0.85), opacity=0.7)
    shine = ellipse(x, y - bottom - 0.5 * lower_lip, 0.09, 0.014)
    window.paint(torch.maximum(shine, bottom - y), (1.0, 0.95, 0.95), opacity=0.3, soft=0.03)
    window.paint(gap, (0.28, 0.07, 0.08), opacity=is_open)
    tongue = ellipse(x, y - bottom - 0.02, 0.15, 0.09)
    window.paint(torch.maximum(tongue, gap), (0.80, 0.36, 0.38), opacity=is_open)
    teeth = torch.maximum(gap + 0.006, y - top - 0.055 - 0.25 * raised)
    window.paint(teeth, (0.98, 0.97, 0.94), opacity=is_open)
    lower_teeth = torch.maximum(gap + 0.006, bottom - y - 0.9 * droop.clamp(min=0))
    window.paint(lower_teeth, (0.95, 0.94, 0.90), opacity=is_open * (droop > 0.015))
    line = (y - top).abs() / steep + beyond - 0.009
    window.paint(line, _shade(person.lip_colour, 0.42), opacity=0.9)
    for side, width, corner in ((-1, left, lift_left), (1, right, lift_right)):
        cx, cy = side * width, person.mouth_height - corner
        window.paint(ellipse(x - cx, y - cy, 0.022, 0.020), _shade(person.lip_colour, 0.42), 0.8, soft=0.01)


def draw_folds(canvas: Canvas, face: Face) -> None:
    """Wrinkles and bulges: faint where a unit is weak, clear where it is strong."""
    person = face.person
    dark = _shade(person.skin, 0.60)
    x, y = face.at_depth(canvas, 0.7)

    top = canvas.window(-0.55, 0.55, -0.80, -0.12)
    tx, ty = face.at_depth(top, 0.7)
    for row in range(3):
        height = BROW_Y - 0.15 - 0.075 * row - 0.4 * face.both("brow_mid")
        middle = stroke(tx, ty, (-0.15, height + 0.01), height - 0.02, (0.15, height + 0.01), 0.007)
        top.paint(middle, dark, opacity=0.55 * face.both("forehead_mid"), soft=0.008)
        for side in SIDES:
            outer = stroke(side * tx, ty, (0.15, height + 0.01), height - 0.05, (0.42, height + 0.03), 0.007)
            top.paint(outer, dark, opacity=0.55 * face.half("forehead_side", side), soft=0.008)
    for side in SIDES:
        frown = stroke(ty, side * tx, (-0.46, 0.055), 0.03, (-0.26, 0.05), 0.011)
        top.paint(frown, dark, opacity=0.75 * face.half("glabella", side), soft=0.008)

    bridge = canvas.window(-0.30, 0.30, -0.30, 0.15)
    bx, by = face.at_depth(bridge, 0.9)
    for row in range(3):
        height = -0.15 + 0.055 * row
        wrinkle = stroke(bx, by, (-0.07, height), height - 0.05, (0.07, height), 0.009)
        bridge.paint(wrinkle, dark, opacity=0.8 * face.both("nose_wrinkle"), soft=0.006)
    for side in SIDES:
        sneer = stroke(side * bx, by, (0.08, 0.02), -0.02, (0.17, 0.06), 0.009)
        bridge.paint(sneer, dark, opacity=0.7 * face.half("nose_wrinkle", side), soft=0.006)

    for side in SIDES:
        part = canvas.window(*sorted((side * 0.05, side * 0.75)), -0.25, 0.75)  # type: ignore[misc]
        px, py = face.at_depth(part, 0.7)
        u = side * px
        edge = person.eye_x + person.eye_width
        for rise in (-0.05, 0.0, 0.05):
            crow = stroke(u, py, (edge + 0.03, EYE_Y + 0.4 * rise), EYE_Y + rise, (edge + 0.11, EYE_Y + 1.2 * rise), 0.006)
            part.paint(crow, dark, opacity=0.7 * face.half("crow", side), soft=0.006)
        bag = stroke(u, py, (person.eye_x - 0.12, 0.05), 0.11, (person.eye_x + 0.14, 0.04), 0.008)
        part.paint(bag, dark, opacity=0.55 * face.half("cheek", side), soft=0.012)
        corner_x = person.mouth_width + face.half("corner_out", side) + 0.06
        corner_y = person.mouth_height - face.half("corner_up", side)
        fold = stroke(py, u, (0.16, person.nose_width + 0.05), corner_x + 0.06, (corner_y, corner_x), 0.009)
        part.paint(fold, dark, opacity=0.7 * face.half("nasolabial", side).clamp(max=1), soft=0.01)
        dent = stroke(py, u, (corner_y - 0.07, corner_x - 0.005), corner_x + 0.045, (corner_y + 0.06, corner_x - 0.01), 0.012)
        part.paint(dent, dark, opacity=0.85 * face.half("dimple", side), soft=0.008)

    low = canvas.window(-0.35, 0.35, 0.5, 1.0)
    lx, ly = face.at_depth(low, 0.8)
    boss = person.mouth_height + 0.17 + 0.5 * face.jaw
    arc = stroke(lx, ly, (-0.11, boss + 0.02), boss - 0.06, (0.11, boss + 0.02), 0.010)
    low.paint(arc, dark, opacity=0.7 * face.both("chin"), soft=0.012)


def draw_beard(canvas: Canvas, face: Face, head: Field) -> None:
    person = face.person
    if person.beard == "none":
        return
    colour = _shade(person.brow_colour, 1.1)
    x, y = face.at_depth(canvas, 0.75)
    mouth = person.mouth_height
    lift = 0.3 * face.both("corner_up")
    if person.beard in ("full", "stubble"):
        line = mouth - 0.03 - lift - 0.42 * (x.abs() / person.width) ** 3
        shape = torch.maximum(head + 0.01, line - y)
        canvas.paint(shape, colour, opacity=0.9 if person.beard == "full" else 0.25, soft=0.05)
    if person.beard in ("full", "goatee"):
        chin = ellipse(x, y - mouth - 0.22 - 0.6 * face.jaw, 0.20, 0.17)
        canvas.paint(torch.maximum(chin, head), colour, opacity=0.9, soft=0.04)
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
        lens = ellipse(u, v, 0.22, 0.21) if person.glasses == "round" else rounded_box(u, v, 0.225, 0.165, 0.06)
        window.paint(lens, (0.9, 0.96, 1.0), opacity=0.12)
        window.paint(lens.abs() - 0.016, frame)
        window.paint(stroke(side * x, v, (person.eye_x + 0.23, -0.04), -0.05, (person.width, -0.06), 0.013), frame)
    window.paint(stroke(x, v, (-0.08, -0.02), -0.07, (0.08, -0.02), 0.014), frame)
