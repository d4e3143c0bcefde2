"""How layers read their tensors, past the search of ``module.name``, which takes half a microsecond, and how
they check those that they are given, and the sizes that they are made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def attribute(module: nn.Module, kept: Mapping[str, Any], name: str) -> Any:
    """``module.name``, which most likely is among what it has ``kept``: parameters, buffers or modules.

    Else it is whatever took its place, such as a parametrization.
    """
    found = kept.get(name)
    return getattr(module, name) if found is None else found


def is_dense(value: Tensor) -> bool:
    """Whether strides tell how its memory is laid out: not of sparse, nested and MKL-DNN's tensors."""
    return value.layout is torch.strided and not value.is_nested


def check_dense(name: str, value: object, shape: str = "") -> None:
    """Raise TypeError for what is no tensor, or none that is dense."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor{shape}, got {type(value).__name__}")
    if not is_dense(value):
        kind = "a nested tensor" if value.is_nested else str(value.layout)
        raise TypeError(f"{name} must be dense (torch.strided), got {kind}")


def check_sizes(**sizes: int) -> None:
    """Raise TypeError for what is no integer, ValueError for what is below 1; by the arguments' names."""
    for name, value in sizes.items():
        if not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
