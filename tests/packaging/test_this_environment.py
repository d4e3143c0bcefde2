"""The environment the tests run in is what its sources say."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from build_support import native_build, toolchain
from fused_ops import native

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version_everywhere() -> None:
    version = PROJECT["version"]
    assert importlib.metadata.version(PROJECT["name"]) == version
    assert native.build_record()["version"] == version
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


def test_natives_are_here_if_they_can_be() -> None:
    """A compile error leaves an automatic install without its library: here, that is a failure."""
    record = native.build_record()
    for name in ("cpu", "cuda"):
        assert not record[name]["failed"], record[name]["reason"]
    if record["requested"] not in ("auto", "cpu"):
        pytest.skip(f"installed with FUSED_OPS_BUILD={record['requested']}")
    try:
        toolchain.find_cxx()
    except toolchain.Missing as reason:
        pytest.skip(str(reason))
    status = native.cpu_library()
    assert status.loaded, status.reason
    assert set(status.build["ops"]) == {path.parent.name for path in ROOT.glob("csrc/*/cpu.cpp")}
    assert list(status.build["instruction_sets"]) == list(native_build.instruction_sets(toolchain.find_cxx()))


def test_every_package_of_the_environment_is_pinned() -> None:
    """By name, with all that the development extras bring in and what those need; but of a torch for CUDA its
    own version says what it brings besides."""
    lines = [line for path in ROOT.glob("constraints*.txt") for line in path.read_text().splitlines()]
    pins = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    todo, seen = [(PROJECT["name"], "dev")], set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if name == "torch" and "platform_system" in str(requirement.marker):
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), wish) for wish in ("", *requirement.extras)]
    assert {name for name, _ in seen} - {PROJECT["name"]} - pins == set()
