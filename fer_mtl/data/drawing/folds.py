"""Wrinkles and bulges of the skin: faint where an action unit is weak, clear where it is strong."""

from __future__ import annotations

from fer_mtl.data.drawing.canvas import SIDES, Canvas, shade, stroke
from fer_mtl.data.drawing.face import Face
from fer_mtl.data.drawing.identity import BROW_Y, EYE_Y


def draw_folds(canvas: Canvas, face: Face) -> None:
    """Paint all folds; they lie on the skin, under beard, mouth and eyes."""
    _draw_forehead(canvas, face)
    _draw_bridge(canvas, face)
    for side in SIDES:
        _draw_cheek(canvas, face, side)
    _draw_chin(canvas, face)


def _draw_forehead(canvas: Canvas, face: Face) -> None:
    dark = shade(face.person.skin, 0.60)
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


def _draw_bridge(canvas: Canvas, face: Face) -> None:
    dark = shade(face.person.skin, 0.60)
    bridge = canvas.window(-0.30, 0.30, -0.30, 0.15)
    bx, by = face.at_depth(bridge, 0.9)
    for row in range(3):
        low = -0.15 + 0.055 * row
        wrinkle = stroke(bx, by, (-0.07, low), low - 0.05, (0.07, low), 0.009)
        bridge.paint(wrinkle, dark, opacity=0.8 * face.both("nose_wrinkle"), soft=0.006)
    for side in SIDES:
        sneer = stroke(side * bx, by, (0.08, 0.02), -0.02, (0.17, 0.06), 0.009)
        bridge.paint(sneer, dark, opacity=0.7 * face.half("nose_wrinkle", side), soft=0.006)


def _draw_cheek(canvas: Canvas, face: Face, side: int) -> None:
    person, dark = face.person, shade(face.person.skin, 0.60)
    part = canvas.half(side, 0.05, 0.75, -0.25, 0.75)
    px, py = face.at_depth(part, 0.7)
    u = side * px
    edge = person.eye_x + person.eye_width
    for rise in (-0.05, 0.0, 0.05):
        start, end = (edge + 0.03, EYE_Y + 0.4 * rise), (edge + 0.11, EYE_Y + 1.2 * rise)
        crow = stroke(u, py, start, EYE_Y + rise, end, 0.006)
        part.paint(crow, dark, opacity=0.7 * face.half("crow", side), soft=0.006)
    bag = stroke(u, py, (person.eye_x - 0.12, 0.05), 0.11, (person.eye_x + 0.14, 0.04), 0.008)
    part.paint(bag, dark, opacity=0.55 * face.half("cheek", side), soft=0.012)
    corner_x = person.mouth_width + face.half("corner_out", side) + 0.06
    corner_y = person.mouth_height - face.half("corner_up", side)
    fold = stroke(py, u, (0.16, person.nose_width + 0.05), corner_x + 0.06, (corner_y, corner_x), 0.009)
    part.paint(fold, dark, opacity=0.7 * face.half("nasolabial", side).clamp(max=1), soft=0.01)
    dent = stroke(
        py,
        u,
        (corner_y - 0.07, corner_x - 0.005),
        corner_x + 0.045,
        (corner_y + 0.06, corner_x - 0.01),
        0.012,
    )
    part.paint(dent, dark, opacity=0.85 * face.half("dimple", side), soft=0.008)


def _draw_chin(canvas: Canvas, face: Face) -> None:
    person, dark = face.person, shade(face.person.skin, 0.60)
    low = canvas.window(-0.35, 0.35, 0.5, 1.0)
    lx, ly = face.at_depth(low, 0.8)
    boss = person.mouth_height + 0.17 + 0.5 * face.jaw
    arc = stroke(lx, ly, (-0.11, boss + 0.02), boss - 0.06, (0.11, boss + 0.02), 0.010)
    low.paint(arc, dark, opacity=0.7 * face.both("chin"), soft=0.012)
