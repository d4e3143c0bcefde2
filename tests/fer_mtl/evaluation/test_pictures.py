from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fer_mtl.evaluation.pictures import captioned, to_image
from fer_mtl.faces import Face


def test_a_face_keeps_its_size_and_levels() -> None:
    face = torch.rand(3, 5, 7)
    shown = np.asarray(Image.open(io.BytesIO(to_image(face))))
    assert np.array_equal(shown, (face * 255).round().byte().permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match=r"\[1 or 3, H, W\], got \[2, 4, 4\]"):
        to_image(torch.rand(2, 4, 4))


@pytest.mark.parametrize("box", [(40, 60, 50, 50), (-8, -5, 60, 60), (150, 90, 60, 60), (0, 0, 200, 120)])
def test_a_caption_is_inside_the_picture(box: tuple[float, float, float, float]) -> None:
    """Wherever the face is: as many pixels of the letters show as in the middle of the picture."""
    picture = Image.new("L", (200, 120))

    def letters(box: tuple[float, float, float, float]) -> int:
        pixels = np.asarray(captioned(picture, [(Face(box), "anger 93.0 %")]))
        assert pixels.shape == (120, 200, 3)
        return int((pixels > 200).all(2).sum())

    assert letters(box) == letters((40, 60, 50, 50)) > 20
    assert picture.getextrema() == (0, 0)
