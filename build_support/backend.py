"""PEP 517 backend: setuptools', which also asks for torch, but only where none is installed.

With torch among the static build requirements an isolated build would fetch a second one of several
gigabytes, although the libraries need only the headers and libraries of the one that is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from .native_build import build_requirements
from .runner import BuildFailure

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def _native_requirements() -> list[str]:
    try:
        return build_requirements(Path.cwd())
    except BuildFailure as error:
        raise SystemExit(f"error: {error}") from None


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*_native_requirements(), *build_meta.get_requires_for_build_wheel(config_settings)]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*_native_requirements(), *build_meta.get_requires_for_build_editable(config_settings)]
