"""Running build steps, with and without ninja."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from build_support import runner, toolchain
from build_support.runner import BuildFailure, Step


@pytest.fixture(params=["ninja", "threads"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "threads":
        monkeypatch.setattr(toolchain, "find_ninja", lambda: None)
    elif toolchain.find_ninja() is None:
        pytest.skip("no ninja")
    return request.param


def shell(output: Path, inputs: tuple[Path, ...], script: str) -> Step:
    return Step(output, inputs, ("/bin/sh", "-c", script))


def test_inputs_come_first(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "out: of $HOME"
    parts = [folder / "one", folder / "two"]
    joined = folder / "both"
    steps = [
        shell(joined, tuple(parts), f"cat {shlex.join(map(str, parts))} > {shlex.quote(str(joined))}"),
        *(shell(part, (), f"echo '{part.name} $5' > {shlex.quote(str(part))}") for part in parts),
    ]
    runner.run_steps(steps, tmp_path, folder)
    assert joined.read_text() == "one $5\ntwo $5\n"


def test_failure_tells_the_error_first(way: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("some context\na.cpp:1: error: it is wrong\n")
    step = shell(tmp_path / "out/a", (), "cat said >&2; exit 1")
    with pytest.raises(BuildFailure, match=r"^compilation failed: a\.cpp:1: error: it is wrong") as failure:
        runner.run_steps([step], tmp_path, tmp_path / "out")
    assert "some context" in str(failure.value)


@pytest.mark.parametrize(("text", "jobs"), [("1", 1), ("3", 3)])
def test_max_jobs(monkeypatch: pytest.MonkeyPatch, text: str, jobs: int) -> None:
    monkeypatch.setenv("MAX_JOBS", text)
    assert runner.jobs() == jobs


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_max_jobs_refuses_the_rest(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAX_JOBS", text)
    with pytest.raises(BuildFailure, match="MAX_JOBS="):
        runner.jobs()
