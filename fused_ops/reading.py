"""How layers read their tensors, past the search of ``module.name``, which takes half a microsecond, and how
they check the sizes that they are made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def attribute(module: nn.Module, kept: Mapping[str, Any], name: str) -> Any:
    """``module.name``, which most likely is among what it has ``kept``: parameters, buffers or modules.

    Else it is whatever took its place, such as a parametrization.
    """
    found = kept.get(name)
    return getattr(module, name) if found is None else found


def check_sizes(**sizes: int) -> None:
    """Raise TypeError for what is no integer, ValueError for what is below 1; by the arguments' names."""
    for name, value in sizes.items():
        if not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
