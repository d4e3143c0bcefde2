"""The files can be read from the ground up: none imports another that needs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> Iterator[Path]:
    """The files that this one imports, at its top or later; a package's __init__.py only hands names on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if (file := ROOT / f"{name.replace('.', '/')}.py").is_file():
                yield file


@pytest.mark.parametrize("package", ["fused_ops", "fer_mtl", "benchmarks"])
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 30
    TopologicalSorter({file: set(imported(file)) for file in files}).prepare()  # raises CycleError
