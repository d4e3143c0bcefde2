"""Drawn faces, in memory and as trees of files laid out like the real data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from fer_mtl.data import FaceSet, load

WriteTree = Callable[[dict[str, int]], Path]


@pytest.fixture(scope="session")
def faces() -> FaceSet:
    """Six drawn subjects, two images of each expression."""
    return load("procedural", image_size=48, num_subjects=6, images_per_expression=2)


@pytest.fixture
def write_tree(faces: FaceSet, tmp_path: Path) -> WriteTree:
    """Writes {relative path: index into `faces`} as picture files; returns their folder."""

    def write(files: dict[str, int]) -> Path:
        root = tmp_path / "faces"
        for name, index in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(faces.images[index].permute(1, 2, 0).numpy()).save(path)
        return root

    return write


@pytest.fixture(scope="session")
def grey_rows() -> tuple[torch.Tensor, list[str]]:
    """Drawn faces of 48 x 48 as FER2013 writes them: pixels [n, 48, 48] and numbers joined by spaces."""
    drawn = load("procedural", image_size=42, channels=1, num_subjects=2, images_per_expression=1)
    pixels = drawn.images[:, 0]
    assert pixels.shape[1:] == (48, 48)
    return pixels, [" ".join(map(str, face.flatten().tolist())) for face in pixels]
