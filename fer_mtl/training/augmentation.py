"""The augmentation levels of a training run: those of the data package, a geometric one, and none."""

from __future__ import annotations

from typing import Any

import torch

from fer_mtl.data.augmentation import LEVELS, Augment, Level, center

# Small sets of aligned faces: pose varies more, light less than in "strong".
GEOMETRIC = Level(20.0, 0.18, 0.09, brightness=0.1, contrast=0.25, erase=0.25)
NAMES = ("none", *LEVELS, "geometric")


class CenterView:
    """The centre crop that evaluation sees, called as :class:`fer_mtl.data.augmentation.Augment` is."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(
        self, source: torch.Tensor, target: torch.Tensor | None = None, *, generator: torch.Generator
    ) -> Any:
        """uint8 ``[N, C, S, S]`` -> float ``[N, C, image_size, image_size]`` in [0, 1], or a pair of them."""
        if target is None:
            return center(source, self.image_size)
        return center(source, self.image_size), center(target, self.image_size)

    def again(self, images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        return images


def make_augmentation(level: str, image_size: int) -> Augment | CenterView:
    """The augmentation called ``level``. ``ValueError`` for an unknown one."""
    if level == "none":
        return CenterView(image_size)
    return Augment(image_size, level=GEOMETRIC if level == "geometric" else level)
