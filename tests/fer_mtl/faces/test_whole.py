from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, features

from fer_mtl.data.images import fit
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


@pytest.mark.parametrize("shape", [(48, 48), (110, 110), (147, 147), (300, 400), (90, 60)])
def test_a_picture_of_another_size_is_resized_as_training_does_it(shape: tuple[int, int]) -> None:
    # Not near black or white, where Pillow cuts off what it adds at edges after each of its two passes.
    pixels = np.random.default_rng(0).integers(64, 192, (*shape, 3), dtype=np.uint8)
    (face,) = WholePicture().detect(pixels)
    image = Image.fromarray(pixels)
    found = np.asarray(align(image, face, 73)).transpose(2, 0, 1)
    expected = fit(image, 73, 3)
    if shape[0] == shape[1]:
        assert (found == expected).all()
        return
    # Of an oblong picture Pillow looks at pixels beyond the square as well, for those at its edge, and since
    # 13.0 it may begin with the other pass than for the square, and round otherwise in between.
    off = np.abs(found.astype(int) - expected)[:, 3:-3, 3:-3]
    assert off.max() <= (1 if features.version("pil") >= "13" else 0)
