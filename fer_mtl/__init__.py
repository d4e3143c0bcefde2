"""Facial expression recognition and synthesis with selective feature sharing, built on :mod:`fused_ops`.

The names below are imported on first use, so that ``import fer_mtl`` and ``fer-mtl --help`` stay quick.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_mtl.data.registry import load
    from fer_mtl.models.discriminator import Discriminator
    from fer_mtl.models.fersnet import FERSNet
    from fer_mtl.models.identity import IdentityEncoder, LightCNN9
    from fer_mtl.models.presets import PRESETS
    from fer_mtl.models.sharing import SHARING
    from fer_mtl.models.statistics import frozen_statistics

_HOMES = {
    "Discriminator": "fer_mtl.models.discriminator",
    "FERSNet": "fer_mtl.models.fersnet",
    "IdentityEncoder": "fer_mtl.models.identity",
    "LightCNN9": "fer_mtl.models.identity",
    "PRESETS": "fer_mtl.models.presets",
    "SHARING": "fer_mtl.models.sharing",
    "frozen_statistics": "fer_mtl.models.statistics",
    "load": "fer_mtl.data.registry",
}

__all__ = [
    "PRESETS",
    "SHARING",
    "Discriminator",
    "FERSNet",
    "IdentityEncoder",
    "LightCNN9",
    "__version__",
    "frozen_statistics",
    "load",
]

try:
    __version__ = version("selective-feature-sharing")
except PackageNotFoundError:  # used from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fer_mtl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
