from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fer_mtl.cli import main
from fer_mtl.commands.crossval import read_seeds

TINY = [
    "--data", "procedural:num_subjects=6,images_per_expression=1", "--model.image_size", "32",
    "--model.width", "0.125", "--folds", "2", "--epochs", "1", "--batch_size", "10", "--identity.epochs", "1",
    "--identity.width", "0.25", "--workers", "1",
]  # fmt: skip


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def options(**changes: str) -> Sequence[str]:
    return [*TINY, *(part for name, value in changes.items() for part in (f"--{name}", value))]


@pytest.mark.slow
def test_from_two_cross_validations_to_fersnet_star_and_the_tables(tmp_path: Path) -> None:
    """The commands as a researcher chains them, on drawn faces."""
    assert run("crossval", *options(method="baseline"), "--out", tmp_path / "baseline") == 0
    judged = options(sharing="convflu", judge=str(tmp_path / "baseline"))
    assert run("crossval", *judged, "--out", tmp_path / "fersnet") == 0
    made = tmp_path / "faces"
    # One epoch teaches nothing: any face the recogniser happens to agree with will do.
    gates = ["--quota", "12", "--confidence", "0", "--identity", "-1", "--attempts", "30"]
    assert run("balance", tmp_path / "fersnet", "--out", made, *gates) == 0
    manifests = sorted(made.glob("seed-0/fold-*/manifest.jsonl"))
    assert len(manifests) == 2
    star = options(sharing="convflu", init=str(tmp_path / "fersnet"), synthetic=str(made))
    assert run("crossval", *star, "--out", tmp_path / "star", "--mix", "0.3") == 0
    runs = [tmp_path / name for name in ("fersnet", "baseline", "star")]
    assert run("report", *runs, "--out", tmp_path / "report") == 0
    with open(tmp_path / "report" / "tables" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"].split(" ")[0] for row in rows] == ["FERSNet", "Baseline", "FERSNet*"]
    report = json.loads((tmp_path / "fersnet" / "seed-0" / "fold-1" / "report.json").read_text())
    assert report["synthesis"]["judge"] == str(tmp_path / "baseline" / "seed-0" / "fold-1")
    leak = ["--synthetic", manifests[0], "--fold", "1", "--out", tmp_path / "leak"]
    assert run("train", *[part for part in TINY if part not in ("--workers", "1")], *leak) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "a"], "--seeds must be numbers separated by commas, got 'a'"),
        (["--seeds", "1,1"], "seeds must be one or more distinct numbers, got [1, 1]"),
        (["--seed", "3"], "--seed is not for a cross-validation: seeds are given as --seeds"),
        (["--fold=1"], "--fold is not for a cross-validation: every fold is trained"),
        (["--folds", "7"], "7 folds need at least 7 subjects, got 6"),
        (["--workers", "0"], "workers must be 1 or more, got 0"),
        (["--judge", "nowhere"], "no checkpoint at nowhere"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("crossval", *TINY, "--out", tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_seed_in_a_file_is_not_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every fold was trained with seed 0."""
    file = tmp_path / "run.yaml"
    file.write_text("seed: 3")
    arguments = ["crossval", *TINY, "--config", file, "--folds", "7", "--out", tmp_path / "run"]
    assert run(*arguments) == 2
    said = "seed 3 is not for a cross-validation: seeds are given as --seeds, such as 0,1,2, got 0"
    assert said in capsys.readouterr().err
    assert run(*arguments, "--seeds", "3,4") == 2
    assert "7 folds need at least 7 subjects, got 6" in capsys.readouterr().err


def test_seeds() -> None:
    assert read_seeds("0,1, 2") == [0, 1, 2] and read_seeds("7") == [7]
