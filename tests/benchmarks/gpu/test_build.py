from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from benchmarks.gpu import build
from benchmarks.gpu.stages import ROOT, Context


def test_libraries_built_in_place_bear_the_version_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an install's do: `make test` after `make gpu` finds one version everywhere."""
    monkeypatch.setenv("FUSED_OPS_BUILD", "none")  # put back afterwards: a dry run sets it
    build.run(Context("build", "cpu", True, 60, tmp_path))
    record = json.loads((tmp_path / "lib" / "build.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert record["version"] == project["version"]
