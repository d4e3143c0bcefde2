from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from fer_mtl.data import FaceSet, load
from fer_mtl.data import duplicates as module
from fer_mtl.data.duplicates import exact_duplicates, near_duplicates


def changed(image: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    picture = change(Image.fromarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def compressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=60)
    return Image.open(file)


def shrunk(picture: Image.Image) -> Image.Image:
    return picture.resize((40, 40)).resize(picture.size)


def lit(picture: Image.Image) -> Image.Image:
    return picture.point(lambda level: int(level * 0.85 + 25))


def test_equal_pictures_are_grouped(faces: FaceSet) -> None:
    images = faces.images[[0, 1, 2, 0, 1, 0]]
    assert exact_duplicates(images) == [[0, 3, 5], [1, 4]]
    assert near_duplicates(images) == []  # equal ones are not "nearly" equal


@pytest.mark.parametrize("change", [compressed, shrunk, lit])
def test_changed_copies_are_found(faces: FaceSet, change: Callable[[Image.Image], Image.Image]) -> None:
    originals = faces.images[::7]
    copies = torch.stack([changed(image, change) for image in originals])
    assert exact_duplicates(torch.cat([originals, copies])) == []
    n = len(originals)
    assert near_duplicates(torch.cat([originals, copies])) == [(i, n + i) for i in range(n)]


def test_other_people_and_other_expressions_are_not_alike(faces: FaceSet) -> None:
    assert near_duplicates(faces.images) == []
    people = load("procedural", image_size=48, num_subjects=30, images_per_expression=1, classes=("fear",))
    assert near_duplicates(people.images) == []


def test_blocks_make_no_difference(faces: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.cat([faces.images, faces.images + (faces.images < 255).to(torch.uint8)])
    whole = near_duplicates(images)
    monkeypatch.setattr(module, "_BLOCK", 10)
    assert near_duplicates(images) == whole == [(i, len(faces) + i) for i in range(len(faces))]


def test_no_pictures_and_pictures_of_one_colour() -> None:
    assert near_duplicates(torch.empty(0, 3, 55, 55, dtype=torch.uint8)) == []
    flat = torch.stack([torch.full((1, 32, 32), level, dtype=torch.uint8) for level in (0, 90, 91)])
    assert near_duplicates(flat) == []


@pytest.mark.parametrize("threshold", [0, 1.5, -1])
def test_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        near_duplicates(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), threshold)
