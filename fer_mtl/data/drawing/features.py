"""Brows, eyes and nose."""

from __future__ import annotations

import torch

from fer_mtl.data.drawing.canvas import SIDES, Canvas, ellipse, shade, stroke
from fer_mtl.data.drawing.face import Face
from fer_mtl.data.drawing.identity import BROW_Y, EYE_Y


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
        window = canvas.half(side, 0.0, 0.62, -0.42, 0.22)
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
        lid = shade(person.skin, 0.86)
        window.paint(torch.maximum((upper - 0.055 - v) / slope, (v - upper) / slope) + beyond, lid, soft=0.02)
        window.paint(opening, (0.97, 0.97, 0.96))
        window.paint(torch.maximum(opening, v - upper - 0.045), (0.70, 0.72, 0.75), opacity=0.6, soft=0.03)
        gx, gy = u - side * face.gaze_x, v + 0.012 - face.gaze_y
        for radius, colour in (
            (person.iris_size, shade(person.iris, 0.65)),
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
        window.paint(((v - lower) / slope).abs() + beyond - 0.006, shade(person.skin, 0.55), opacity=0.8)


def draw_nose(canvas: Canvas, face: Face) -> None:
    person = face.person
    window = canvas.window(-0.35, 0.35, -0.35, 0.45)
    x, y = face.at_depth(window, 1.0)
    tip = EYE_Y + 0.06 + person.nose_length
    rise = 0.03 * face.both("nose_wrinkle") + 0.01 * face.both("nostril")
    y = y + rise
    wide = person.nose_width * (1 + 0.22 * face.both("nostril"))
    line = shade(person.skin, 0.58)
    ridge = stroke(y, x, (EYE_Y, -0.05), -0.04, (tip - 0.06, -wide * 0.75), 0.022)
    window.paint(ridge, shade(person.skin, 0.8), opacity=0.45, soft=0.05)
    window.paint(ellipse(x, y - tip + 0.05, 0.045, 0.05), (1.0, 1.0, 1.0), opacity=0.22, soft=0.05)
    for side in SIDES:
        wing = stroke(y, side * x, (tip - 0.09, wide * 0.95), wide * 1.45, (tip + 0.01, wide * 0.75), 0.012)
        window.paint(wing, line, opacity=0.8)
        window.paint(ellipse(side * x - wide * 0.42, y - tip - 0.012, wide * 0.30, 0.017), shade(line, 0.6))
    window.paint(
        stroke(x, y, (-wide * 0.5, tip + 0.01), tip + 0.05, (wide * 0.5, tip + 0.01), 0.008), line, 0.7
    )
