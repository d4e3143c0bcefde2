"""What the packages import is what they ask for."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"fused_ops", "fer_mtl"}
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Who brings an import of another name."""


def imported(package: str) -> set[str]:
    """Top-level names of other packages that the files of one import, anywhere in them."""
    found: set[str] = set()
    for path in ROOT.glob(f"{package}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


def test_every_import_of_another_package_is_asked_for() -> None:
    """By the project itself, not only by what it asks for: that may do without it one day."""
    texts = PROJECT["dependencies"] + [
        text
        for extra in ("app", "export", "faces", "fer", "tensorboard", "weighting")
        for text in PROJECT["optional-dependencies"][extra]
    ]
    asked = {canonicalize_name(Requirement(text).name) for text in texts}
    asked.add("triton")  # torch's builds for cards bring it along; without it other backends serve
    names = imported("fused_ops") | imported("fer_mtl")
    assert {DISTRIBUTIONS.get(name, name) for name in names} <= asked


def test_the_ops_need_torch_alone() -> None:
    assert imported("fused_ops") <= {"torch", "triton"}
