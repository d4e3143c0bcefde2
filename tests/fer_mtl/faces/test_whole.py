from __future__ import annotations

import numpy as np
from PIL import Image

from fer_mtl.faces.align import align
from fer_mtl.faces.whole import WholePicture


def test_a_picture_of_the_right_size_is_kept_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (110, 110, 3), dtype=np.uint8)
    (face,) = WholePicture().detect(pixels)
    assert face.box == (0, 0, 110, 110)
    assert (np.asarray(align(Image.fromarray(pixels), face, 110)) == pixels).all()


def test_an_oblong_picture_gives_its_centre_square() -> None:
    (face,) = WholePicture().detect(np.zeros((60, 100, 3), np.uint8))
    assert face.box == (20, 0, 60, 60)
