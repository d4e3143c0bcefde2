"""Turn, scale and cut a picture so that the eyes (or five points of a face) come to fixed places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fer_mtl.faces.face import Face, Point

# Where eyes, nose and corners of the mouth come to lie, as fractions of the side of the result. The chin is
# still inside, and the centre crop that training takes (96 of 110) holds all five points.
PLACES: tuple[Point, ...] = ((0.32, 0.35), (0.68, 0.35), (0.50, 0.56), (0.36, 0.74), (0.64, 0.74))
# Where the eyes usually are in the box of a frontal face detector, as fractions of its sides.
LARGEST = 512  # side in pixels up to which a face is turned as it is; larger ones are reduced first
EYES_IN_BOX: tuple[Point, ...] = ((0.30, 0.38), (0.70, 0.38))


def align(image: Image.Image, face: Face, size: int = 110) -> Image.Image:
    """The face as a square picture of `size` pixels, in the mode of the image ("L" or "RGB").

    By similarity (rotation, scale, shift) the face's points come as near to their places as least squares
    allow; two points come there exactly. Without points the eyes are taken to be where they usually are in
    the box. What lies outside the image repeats its edge. Raises ValueError for points that coincide.
    """
    points = face.points or tuple(
        (face.box[0] + x * face.box[2], face.box[1] + y * face.box[3]) for x, y in EYES_IN_BOX
    )
    scale, shift = similarity(points, [(x * size, y * size) for x, y in PLACES[: len(points)]])
    # Where the corners of the result come from: the image is cut to that first.
    corners = [(complex(x, y) - shift) / scale for x in (0, size) for y in (0, size)]
    pixels, offset = _around(image, corners)
    # Turned at the image's own scale, then resized as pictures are that training reads (`data.images.fit`):
    # sampled far apart the pixels would show patterns, and a picture that is a face already would differ.
    factor = max(1, int(size / abs(scale) / LARGEST))
    side = round(size / abs(scale) / factor)
    if side < size and abs(scale.imag) > 1e-6 * abs(scale):
        side = size  # a small face is turned in the larger picture
    inverse = size / side / (scale * factor)
    start = (-shift / scale - offset) / factor
    planes = []
    # In floating point, since Pillow rounds bytes down here and would darken every picture.
    for plane in np.atleast_3d(pixels).astype(np.float32).transpose(2, 0, 1):
        source = Image.fromarray(plane)
        warped = (source.reduce(factor) if factor > 1 else source).transform(
            (side, side),
            Image.Transform.AFFINE,
            (inverse.real, -inverse.imag, start.real, inverse.imag, inverse.real, start.imag),
            Image.Resampling.BICUBIC,
        )
        planes.append(np.asarray(warped).round().clip(0, 255).astype(np.uint8))
    turned = Image.fromarray(planes[0] if len(planes) == 1 else np.dstack(planes))
    return turned if side == size else turned.resize((size, size), Image.Resampling.BICUBIC)


def similarity(points: Sequence[Point], places: Sequence[Point]) -> tuple[complex, complex]:
    """(a, b) with a z + b nearest to the places for the points z = x + iy, by least squares.

    |a| is the scale and its angle the rotation. Raises ValueError for points that coincide.
    """
    source, target = (np.array([complex(x, y) for x, y in p]) for p in (points, places))
    centred = source - source.mean()
    spread = float((abs(centred) ** 2).sum())
    if spread < 1e-6:
        raise ValueError(f"points must not coincide, got {tuple(points)}")
    scale = complex((centred.conj() * (target - target.mean())).sum() / spread)
    return scale, complex(target.mean() - scale * source.mean())


def _around(image: Image.Image, corners: Sequence[complex]) -> tuple[np.ndarray, complex]:
    """The part of the image around the corners, its edge repeated where they lie outside; and its origin."""
    xs, ys = [c.real for c in corners], [c.imag for c in corners]
    margin = 2  # for the neighbours that interpolation looks at
    left, top = int(min(xs)) - margin, int(min(ys)) - margin
    right, bottom = int(max(xs)) + margin + 1, int(max(ys)) + margin + 1
    pixels = np.asarray(image)
    rows = np.arange(top, bottom).clip(0, image.height - 1)
    columns = np.arange(left, right).clip(0, image.width - 1)
    return pixels[rows[:, None], columns], complex(left, top)
