"""Checks of arguments: each raises an error that names the argument, what it got and what is allowed."""

from __future__ import annotations

from torch import Tensor


def check_at_least(argument: str, value: int, least: int) -> None:
    """ValueError unless ``value`` is ``least`` or more."""
    if value < least:
        raise ValueError(f"{argument}: at least {least} are needed, got {value}")


def check_positive(argument: str, value: float) -> None:
    """ValueError unless ``value`` is above zero (NaN is not)."""
    if not value > 0:
        raise ValueError(f"{argument}: a number above 0 is needed, got {value}")


def check_channels(argument: str, value: int) -> None:
    """ValueError unless ``value`` is the number of channels of a grey or a colour image."""
    if value not in (1, 3):
        raise ValueError(f"{argument}: 1 (grey) or 3 (colour) are allowed, got {value}")


def check_images(argument: str, images: Tensor, channels: int, multiple: int = 1) -> None:
    """TypeError unless ``images`` are floating point, ValueError unless they are [N, channels, H, W] with H
    and W positive multiples of ``multiple``."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{argument}: a floating-point tensor of pixels in [0, 1] is needed, got {got}")
    if images.dim() != 4 or images.shape[1] != channels:
        raise ValueError(f"{argument}: [N, {channels}, H, W] is needed, got {list(images.shape)}")
    height, width = images.shape[2:]
    if height % multiple or width % multiple or not height or not width:
        raise ValueError(
            f"{argument}: height and width must be multiples of {multiple}, got {height} x {width}"
        )
