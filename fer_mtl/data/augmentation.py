"""Augmentation of whole batches on tensors; every random number comes from one generator.

The same generator state gives the same batch bit for bit, so a run resumes exactly. Crops are slices and the
affine warp is one `grid_sample`: 1 to 4 ms for 32 images of 64 x 64 on one core. kornia has the same
operations, but draws from the global generator, and took two to three times as long (measured, 0.9.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import torch
from torch.nn import functional as F

from fer_mtl.data.faceset import check_channels


@dataclass(frozen=True)
class Level:
    """How strong: half widths of uniform ranges around "unchanged", unless said otherwise."""

    rotation: float = 0.0  # degrees
    scale: float = 0.0
    shift: float = 0.0  # fraction of the crop's side
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0  # largest standard deviation
    erase: float = 0.0  # probability of a grey rectangle

    @property
    def warps(self) -> bool:
        """Whether it takes more than moving the crop by whole pixels."""
        return self.rotation > 0 or self.scale > 0 or self.shift > 0


LEVELS: dict[str, Level] = {
    # Random crop out of the stored margin, and flip: the public FERSNet training code.
    "paper": Level(),
    "strong": Level(10.0, 0.12, 0.07, brightness=0.15, contrast=0.25, noise=0.03, erase=0.25),
}


class Augment:
    """Random views of a batch of stored faces.

    image_size: side of the views in pixels; flip: mirror half of the images
    level: "paper" (crop and flip) or "strong" (also rotation, scale, light, noise, erasing), or a Level
    """

    def __init__(self, image_size: int, flip: bool = True, level: str | Level = "paper") -> None:
        if isinstance(level, str):
            if level not in LEVELS:
                raise ValueError(f"level must be one of {tuple(LEVELS)} or a Level, got {level!r}")
            level = LEVELS[level]
        self.image_size, self.flip, self.level = image_size, flip, level

    @overload
    def __call__(
        self, source: torch.Tensor, target: None = None, *, generator: torch.Generator
    ) -> torch.Tensor: ...

    @overload
    def __call__(
        self, source: torch.Tensor, target: torch.Tensor, *, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def __call__(
        self, source: torch.Tensor, target: torch.Tensor | None = None, *, generator: torch.Generator
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """uint8 [N, C, S, S] -> float32 [N, C, image_size, image_size] in 0..1.

        A target (of the same shape) is seen from the same place in the same light as its source; noise and
        erasing disturb the source alone. Raises TypeError or ValueError for other dtypes or shapes.
        """
        _check(source, self.image_size, "source")
        batches = [source]
        if target is not None:
            if target.shape != source.shape:
                raise ValueError(
                    f"target must have the source's shape {list(source.shape)}, got {list(target.shape)}"
                )
            _check(target, self.image_size, "target")
            batches.append(target)
        views = self._views(batches, generator)
        return views[0] if target is None else (views[0], views[1])

    def again(self, images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """Another random view of views, such as synthesised faces: float32 [N, C, S, S], gradients pass.

        Views that only move a crop and mirror it have nothing to show anew and come back as they are: without
        a margin there is nowhere to move, and read in mirror images the demo's faces came out worse.
        """
        return self._views([images], generator)[0] if self.level.warps else images

    def _views(self, batches: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
        views = self._light(self._move(batches, generator), generator)
        return [self._disturb(views[0], generator), *views[1:]]

    def _move(self, batches: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
        n, device, level = len(batches[0]), batches[0].device, self.level
        mirror = (torch.rand(n, generator=generator) < 0.5) & self.flip
        if level.warps and n:  # affine_grid refuses an empty batch
            ratio = self.image_size / batches[0].shape[3]
            angle = torch.deg2rad(_around(0.0, level.rotation, n, generator))
            zoom = ratio / _around(1.0, level.scale, n, generator)
            dx, dy = (2 * ratio * _around(0.0, level.shift, n, generator) for _ in range(2))
            cos, sin, sign = zoom * angle.cos(), zoom * angle.sin(), 1 - 2 * mirror.float()
            theta = torch.stack([cos * sign, -sin, dx, sin * sign, cos, dy], 1).view(n, 2, 3).to(device)
            size = [n, batches[0].shape[1], self.image_size, self.image_size]
            grid = F.affine_grid(theta, size, align_corners=False)
            return [
                F.grid_sample(_unit(batch), grid, padding_mode="border", align_corners=False)
                for batch in batches
            ]
        room = batches[0].shape[3] - self.image_size + 1
        top, left = (torch.randint(room, (n,), generator=generator).to(device) for _ in range(2))
        rows = torch.arange(n, device=device)
        mirror = mirror.to(device).view(n, 1, 1, 1)
        views = []
        for batch in batches:
            windows = batch.unfold(2, self.image_size, 1).unfold(3, self.image_size, 1)
            view = windows[rows, :, top, left]
            views.append(_unit(torch.where(mirror, view.flip(3), view)))
        return views

    def _light(self, views: list[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
        level, n = self.level, len(views[0])
        if level.brightness == level.contrast == 0:
            return views
        shape = (n, 1, 1, 1)
        contrast = _around(1.0, level.contrast, n, generator).view(shape).to(views[0].device)
        brightness = _around(0.0, level.brightness, n, generator).view(shape).to(views[0].device)
        middle = views[0].mean((1, 2, 3), keepdim=True)
        return [((view - middle) * contrast + middle + brightness).clamp(0, 1) for view in views]

    def _disturb(self, view: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        level, (n, _, side, _) = self.level, view.shape
        if level.noise > 0:
            # Drawn on the CPU, as everything here, so that all devices see the same numbers.
            noise = torch.randn(n, 1, side, side, generator=generator)
            strength = level.noise * torch.rand(n, 1, 1, 1, generator=generator)
            view = (view + (noise * strength).to(view.device)).clamp(0, 1)
        if level.erase > 0:
            chosen = torch.rand(n, 1, generator=generator) < level.erase
            extent = side * (0.15 + 0.25 * torch.rand(n, 2, generator=generator))
            start = (side - extent) * torch.rand(n, 2, generator=generator)
            line = torch.arange(side).view(1, 1, side)
            inside = (line >= start[..., None]) & (line < (start + extent)[..., None])  # [n, 2, side]
            hole = (inside[:, 0, :, None] & inside[:, 1, None, :] & chosen[..., None]).unsqueeze(1)
            view = torch.where(hole.to(view.device), 0.5, view)
        return view


def center(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """Centre crop for evaluation: uint8 [N, C, S, S] -> float32 [N, C, image_size, image_size] in 0..1."""
    _check(images, image_size, "images")
    start = (images.shape[3] - image_size) // 2
    return _unit(images[:, :, start : start + image_size, start : start + image_size])


def _check(images: torch.Tensor, image_size: int, name: str) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8, got {images.dtype}")
    if images.dim() != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"{name} must be [N, C, S, S], got {list(images.shape)}")
    check_channels(images.shape[1])
    if images.shape[3] < image_size:
        raise ValueError(f"{name} of side {images.shape[3]} cannot be cropped to image_size {image_size}")


def _unit(images: torch.Tensor) -> torch.Tensor:
    return images if images.is_floating_point() else images.to(torch.float32).div_(255)


def _around(middle: float, half_width: float, n: int, generator: torch.Generator) -> torch.Tensor:
    return middle + half_width * (2 * torch.rand(n, generator=generator) - 1)
