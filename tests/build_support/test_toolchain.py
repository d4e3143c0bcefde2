"""Finding torch and compilers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from build_support import toolchain


def lay_torch(site: Path, version: str, stable: bool = True) -> Path:
    root = site / "torch"
    (root / ("include/torch/csrc/stable" if stable else "include")).mkdir(parents=True)
    (root / "version.py").write_text(f"from typing import Optional\n__version__ = '{version}'\n")
    return root


def test_environment_torch_is_found_from_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An isolated build has the environment's packages nowhere on its path."""
    monkeypatch.setattr(sys, "path", [])
    found = toolchain.find_torch()
    assert found.version == torch.__version__
    assert found.root.samefile(Path(torch.__file__).parent)


def test_first_new_enough_torch_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lay_torch(tmp_path / "old", "2.9.1+cu128")
    lay_torch(tmp_path / "bare", "2.11.0", stable=False)
    folders = [tmp_path / name for name in ("nothing", "old", "bare", "good")]
    monkeypatch.setattr(toolchain, "_site_folders", lambda: iter(folders))
    with pytest.raises(toolchain.Missing, match=r"torch >= 2\.10 .*found only 2\.9\.1\+cu128, 2\.11\.0"):
        toolchain.find_torch()
    good = lay_torch(tmp_path / "good", "2.10.0")
    assert toolchain.find_torch() == toolchain.Torch(good, "2.10.0")


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_named_environment_is_looked_into(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Front ends that build in a virtual environment of their own leave these set."""
    site = tmp_path / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    monkeypatch.setenv(variable, str(tmp_path))
    assert site in list(toolchain._site_folders())


def test_compiler_without_cxx20_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "old-c++"
    old.write_text("#!/bin/sh\necho 'unrecognized option -std=c++20' >&2; exit 1\n")
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    with pytest.raises(toolchain.Missing, match=r"does not compile C\+\+20: unrecognized option"):
        toolchain.find_cxx()
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    with pytest.raises(toolchain.Missing, match=r"looked for .*absent\)"):
        toolchain.find_cxx()


def test_flags_are_probed() -> None:
    try:
        compiler = toolchain.find_cxx()
    except toolchain.Missing as reason:
        pytest.skip(str(reason))
    assert toolchain.accepts(compiler.command, ["-O1"]) == ""
    assert toolchain.accepts(compiler.command, ["-mno-such-set"]) != ""
