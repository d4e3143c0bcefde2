from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_mtl.faces.align import EYES_IN_BOX, PLACES, align, similarity
from fer_mtl.faces.face import Face, Point

SIZE = 110


def scene(points: list[Point], width: int = 400, height: int = 300, radius: float = 5.0) -> Image.Image:
    """Grey, with a soft white dot at every point."""
    y, x = np.mgrid[:height, :width] + 0.5
    levels = np.full((height, width), 60.0)
    for px, py in points:
        levels += 180 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (radius / 2) ** 2))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def dot(image: Image.Image, near: Point, reach: int = 8) -> Point:
    """Centre of brightness around a place, both in pixels."""
    left, top = int(near[0]) - reach, int(near[1]) - reach
    part = np.asarray(image, np.float64)[top : top + 2 * reach, left : left + 2 * reach]
    part = (part - 90).clip(0)
    y, x = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
    return left + float((part * x).sum() / part.sum()), top + float((part * y).sum() / part.sum())


def placed(angle: float, apart: float, middle: Point) -> list[Point]:
    """Five points of a face, turned, with eyes `apart` pixels from each other around `middle`."""
    turn = apart / (PLACES[1][0] - PLACES[0][0]) * complex(math.cos(angle), math.sin(angle))
    z = [complex(*middle) + turn * (complex(x, y) - complex(0.5, 0.5)) for x, y in PLACES]
    return [(p.real, p.imag) for p in z]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize(("angle", "apart"), [(0.0, 39.6), (0.5, 60.0), (-0.8, 25.0), (0.2, 120.0)])
def test_points_come_to_their_places(count: int, angle: float, apart: float) -> None:
    points = placed(angle, apart, (200.0, 150.0))
    image = scene(points[:count], radius=max(5.0, apart / 8))
    face = align(image, Face((0, 0, 400, 300), tuple(points[:count])), SIZE)
    assert (face.size, face.mode) == ((SIZE, SIZE), "L")
    for x, y in PLACES[:count]:
        found = dot(face, (x * SIZE, y * SIZE))
        assert math.dist(found, (x * SIZE, y * SIZE)) < 0.5


def test_without_points_the_box_says_where_the_eyes_are() -> None:
    box = (150.0, 80.0, 100.0, 100.0)
    eyes = [(box[0] + x * box[2], box[1] + y * box[3]) for x, y in EYES_IN_BOX]
    image = scene(eyes)
    assert align(image, Face(box)).tobytes() == align(image, Face(box, tuple(eyes))).tobytes()


def test_colours_are_kept_and_edges_repeated() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:] = (200, 100, 50)
    face = align(Image.fromarray(pixels), Face((0, 0, 40, 40), ((2.0, 2.0), (38.0, 2.0))), 64)
    assert face.mode == "RGB"
    assert (np.asarray(face) == (200, 100, 50)).all()  # most of it lies outside the picture


def test_a_large_face_is_averaged_not_sampled() -> None:
    stripes = np.zeros((1100, 1100), np.uint8)
    stripes[:, ::2] = 200
    eyes = tuple((x * 1100, y * 1100) for x, y in PLACES[:2])
    face = np.asarray(align(Image.fromarray(stripes), Face((0, 0, 1100, 1100), eyes)))
    assert abs(face[5:-5, 5:-5].astype(int) - 100).max() <= 1


def test_a_face_in_its_places_comes_back_unchanged() -> None:
    image = scene(placed(0.0, 0.36 * SIZE, (55.0, 55.0)), SIZE, SIZE)
    eyes = tuple((x * SIZE, y * SIZE) for x, y in PLACES[:2])
    assert align(image, Face((0, 0, SIZE, SIZE), eyes)).tobytes() == image.tobytes()


@given(
    st.complex_numbers(min_magnitude=0.1, max_magnitude=10),
    st.complex_numbers(max_magnitude=100),
    st.integers(2, 5),
)
@settings(max_examples=50, deadline=None)
def test_a_similarity_is_found_again(scale: complex, shift: complex, count: int) -> None:
    moved = [scale * complex(x, y) + shift for x, y in PLACES[:count]]
    a, b = similarity(PLACES[:count], [(z.real, z.imag) for z in moved])
    assert abs(a - scale) < 1e-9 * abs(scale) + 1e-9 * abs(shift) + 1e-12 and abs(b - shift) < 1e-7


def test_points_that_coincide_are_refused() -> None:
    with pytest.raises(ValueError, match="points must not coincide"):
        align(scene([]), Face((0, 0, 9, 9), ((5.0, 5.0), (5.0, 5.0))))
