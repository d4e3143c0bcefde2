"""Stages in processes of their own: what comes back when they pass, fail, crash, hang or are left out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import stages
from benchmarks.gpu.stages import Context, Failed, LeftOut, Stage, run_apart, run_here
from benchmarks.gpu.suite import BY_NAME, STAGES, TOTAL_SECONDS

STAGE = Stage("trial", 10, "build:run", "")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("trial", "cpu", True, 100, tmp_path)


def apart(tmp_path: Path, program: str, seconds: float = 60) -> stages.Outcome:
    """Run a program in a stage's place; it gets the stage's arguments."""
    return run_apart(STAGE, [], tmp_path, seconds, sys.stderr, (sys.executable, "-c", program))


def answer(**outcome: object) -> str:
    found = {"stage": "trial", "state": "passed", "seconds": 0.0, "reason": "", "result": None, **outcome}
    return (
        f"import json, sys; path = sys.argv[4]; open(path + '/trial.json', 'w').write({json.dumps(found)!r})"
    )


def test_all_stages_fit_in_ten_minutes_and_exist() -> None:
    assert sum(stage.seconds for stage in STAGES) <= TOTAL_SECONDS < 600
    assert len(BY_NAME) == len(STAGES)
    for stage in STAGES:
        assert callable(stage.function())


@pytest.mark.usefixtures("capfd")
def test_an_outcome_comes_back(tmp_path: Path) -> None:
    outcome = apart(tmp_path, answer(result={"a": 1}))
    assert (outcome.state, outcome.result) == ("passed", {"a": 1}) and outcome.seconds > 0


@pytest.mark.usefixtures("capfd")
def test_a_crash_is_a_failure_with_what_was_kept(tmp_path: Path, context: Context) -> None:
    context.keep({"so": "far"})
    outcome = apart(tmp_path, "import os; os.abort()")
    assert outcome.state == "failed" and "ended with code -6" in outcome.reason
    assert outcome.result == {"so": "far"}


@pytest.mark.usefixtures("capfd")
def test_an_error_costs_nothing_that_was_kept(tmp_path: Path, context: Context) -> None:
    context.keep({"so": "far"})
    outcome = apart(tmp_path, answer(state="failed", reason="ValueError: bad"))
    assert (outcome.state, outcome.reason, outcome.result) == ("failed", "ValueError: bad", {"so": "far"})
    assert apart(tmp_path, answer(result={"whole": 1})).result == {"whole": 1}


@pytest.mark.usefixtures("capfd")
def test_a_stage_that_hangs_is_ended_with_its_children(tmp_path: Path, context: Context) -> None:
    context.keep([1, 2])
    mark = tmp_path / "alive"
    child = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    program = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    outcome = apart(tmp_path, program, seconds=1.5)
    assert (outcome.state, outcome.reason, outcome.result) == ("out of time", "after 2 s", [1, 2])
    time.sleep(4)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (LeftOut("no tool"), "left out", "no tool"),
        (ModuleNotFoundError("no rich", name="rich.table"), "left out", "needs the package rich.table"),
        (ModuleNotFoundError("no such part", name="benchmarks.nothing"), "failed", "no such part"),
        (ValueError("bad\nmore"), "failed", "ValueError: bad"),
        (Failed("three wrong", {"kept": True}), "failed", "three wrong"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_how_a_stage_ends(
    error: Exception, state: str, reason: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def function(context: Context) -> None:
        raise error

    monkeypatch.setattr(Stage, "function", lambda self: function)
    outcome = run_here(STAGE, context)
    assert (outcome.state, outcome.reason) == (state, reason)
    assert outcome.result == ({"kept": True} if isinstance(error, Failed) else None)


def test_time_that_is_left_keeps_some_back(tmp_path: Path) -> None:
    began = time.monotonic() - 50
    assert Context("", "cpu", True, 100, tmp_path, began).left == pytest.approx(40, abs=1)
    assert Context("", "cpu", True, 40, tmp_path, began).left < 0


def test_the_log_gets_what_a_stage_prints(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as log:
        run_apart(STAGE, [], tmp_path, 30, log, (sys.executable, "-c", "print('hello')"))
    assert "hello" in (tmp_path / "log.txt").read_text()
