"""``python -m benchmarks.gpu``: a dry run goes through every stage's code; what is missing is left out."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import files
from benchmarks.gpu.suite import STAGES

ROOT = Path(__file__).resolve().parents[3]
# What a machine with a card may lack; torch, triton and numpy alone must do.
ABSENT = (
    "PIL", "cv2", "gradio", "hypothesis", "jsonargparse", "matplotlib", "pandas", "pytest",
    "pytest_benchmark", "rich", "safetensors", "scipy", "sklearn", "tensorboard", "torchjd", "torchmetrics",
    "yaml",
)  # fmt: skip
NEEDED_BY_STEPS = ("PIL", "rich", "safetensors", "torchmetrics", "yaml")
BLOCK = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *args):
        return None if name.partition(".")[0] in NAMES else self.finder.find_spec(name, *args)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def without(names: Iterable[str], folder: Path) -> Path:
    """A folder that keeps a Python, on whose path it is, from importing these packages."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"NAMES = {set(names)}{BLOCK}")
    return folder


def run(out: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    places = [str(ROOT), *([str(path)] if path else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--dry", "--out", str(out)]
    return subprocess.run(
        [*program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540
    )


@pytest.mark.slow
def test_a_dry_run_passes_every_stage_and_leaves_its_files(tmp_path: Path) -> None:
    done = run(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log[-4000:]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == set(files.NAMES) and len(left) <= files.MOST
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert whole["dry"] and "mean nothing" in whole["note"]
    assert {stage["stage"]: stage["state"] for stage in whole["stages"]} == dict.fromkeys(
        (stage.name for stage in STAGES), "passed"
    )
    results = {stage["stage"]: stage["result"] for stage in whole["stages"]}
    assert results["checks"]["counts"]["right"] > 50 and results["checks"]["counts"]["wrong"] == 0
    assert results["sanitizer"]["summary"][-1].endswith("calls, 0 refused")
    assert {record["provider"] for record in results["steps"]["records"]} == {"fused", "eager"}
    records = results["ops"]["records"]
    assert all(record["cold_us"] > 0 and record["warm_us"] > 0 and record["dry"] for record in records)
    assert not any("x_eager" in record or "roofline_share" in record for record in records)
    with (tmp_path / "ops.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records) and all(row["dry"] == "True" for row in rows)
    report = (tmp_path / "report.md").read_text()
    assert files.DRY in report and "#### Training steps" in report
    assert "selective_share.forward" in json.loads((tmp_path / "table.json").read_text())


@pytest.mark.slow
def test_without_other_packages_it_leaves_out_what_needs_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(out, "--only", "build,tune,ops,steps", path=without(ABSENT, tmp_path / "block"))
    assert done.returncode == 0, done.stdout + done.stderr
    stages = json.loads((out / "gpu.json").read_text())["stages"]
    assert {stage["stage"]: stage["state"] for stage in stages} == {
        "build": "passed", "tune": "passed", "ops": "passed", "steps": "left out",
    }  # fmt: skip
    assert stages[-1]["reason"] == "needs the package safetensors"
    assert not list(out.glob("*.png")) and "no pictures: matplotlib is not installed" in done.stdout


@pytest.mark.slow
def test_five_packages_do_for_the_training_steps(tmp_path: Path) -> None:
    # torchmetrics does without the other two, but asks for them by what is installed, not by what it finds.
    absent = set(ABSENT) - {*NEEDED_BY_STEPS, "matplotlib", "scipy"}
    done = run(tmp_path / "out", "--only", "steps", path=without(absent, tmp_path / "block"))
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [stage["state"] for stage in whole["stages"]] == ["passed"], whole
    assert whole["facts"]["versions"]["torch"] in (tmp_path / "out" / "report.md").read_text()


def test_a_failing_stage_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(stage, arguments, scratch, seconds, log):
        state = "failed" if stage.name == "checks" else "passed"
        return command.Outcome(stage.name, state, 1.0, "two are wrong" if state == "failed" else "")

    monkeypatch.setattr(command, "run_apart", pretend)
    arguments = ["--device", "cpu", "--dry", "--out", str(tmp_path)]
    assert command.main(arguments) == 1
    text = capsys.readouterr().out
    assert "checks: failed after 1 s - two are wrong" in text and "steps: passed" in text
    assert "| checks | failed | 1 | two are wrong |" in (tmp_path / "report.md").read_text()
    assert command.main([*arguments, "--only", "build,steps"]) == 0
    assert command.main([*arguments, "--only", "build", "--seconds", "0.5"]) == 1
    assert "out of time" in capsys.readouterr().out


def test_a_picture_that_cannot_be_drawn_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise OSError("no fonts")

    monkeypatch.setattr(command, "run_apart", lambda stage, *_: command.Outcome(stage.name, "passed", 1.0))
    monkeypatch.setattr(files, "pictures", fail)
    assert command.main(["--device", "cpu", "--dry", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "no pictures: OSError: no fonts" in text and "steps: passed" in text


def test_a_stage_gets_what_those_before_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}

    def at_once(stage, arguments, scratch, seconds, log):
        given[stage.name] = seconds
        return command.Outcome(stage.name, "passed", 0.0)

    monkeypatch.setattr(command, "run_apart", at_once)
    command.run_all([stage.name for stage in STAGES], tmp_path, "cpu", True, 585)
    build, checks, *_, last = STAGES
    assert given["build"] >= build.seconds
    assert given["checks"] == pytest.approx(given["build"] + checks.seconds, abs=2)
    assert given[last.name] == pytest.approx(585, abs=2)
    command.run_all(["steps"], tmp_path, "cpu", True, 50)
    assert given["steps"] == pytest.approx(50, abs=2)


def test_without_a_card_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    text = capsys.readouterr().err
    assert text.startswith("make gpu needs a card: torch ") and text.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "--device cpu goes with --dry"),
        (["--seconds", "-1"], "--seconds must be above 0, got -1"),
        (["--only", "build,nonsense"], "'nonsense' is no stage; known are build, checks, sanitizer"),
    ],
)
def test_bad_options_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err
