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
    # Since 13.0 Pillow may begin an oblong picture with the other of its two passes than its square, and it
    # rounds in between; so not near black or white, where it would cut off there what it adds at edges.
    other_pass = shape[0] != shape[1] and features.version("pil") >= "13"
    values = (64, 192) if other_pass else (0, 256)
    pixels = np.random.default_rng(0).integers(*values, (*shape, 3), dtype=np.uint8)
    (face,) = WholePicture().detect(pixels)
    image = Image.fromarray(pixels)
    off = np.abs(np.asarray(align(image, face, 73)).transpose(2, 0, 1).astype(int) - fit(image, 73, 3))
    # Of an oblong picture Pillow looks at pixels beyond the square as well, for those at its edge.
    assert (off if shape[0] == shape[1] else off[:, 3:-3, 3:-3]).max() <= int(other_pass)
