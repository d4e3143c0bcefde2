from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.cli import main
from fer_mtl.commands.train import default_folder
from fer_mtl.training.presets import preset_config

DATA = "procedural:num_subjects=8,images_per_expression=1"


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", DATA, "--folds", "4", "--dry-run", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "56 " in said and f"run folder: {out}" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.levels=7", "levels: a number from 0 to 3 is needed, got 7"),
        ("--batch_size=43", "batch_size must be at most the 42 training images, got 43"),
        ("--init=nowhere", "no checkpoint at nowhere"),
        ("--judge=nowhere", "no checkpoint at nowhere"),
        ("--synthetic=nowhere", "nowhere"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    option: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", DATA, "--folds", "4", option, "--dry-run", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"data": "ck48:data/CK+48", "fold": 3}, "ck48-small-convflu-fold3"),
        ({"data": "procedural", "fold": None}, "procedural-small-convflu-all"),
        (
            {"data": "my_set:x", "fold": 0, "model": {"sharing": "none", "synthesis": False}},
            "my-set-small-recognition-fold0",
        ),
    ],
)
def test_a_run_is_named_by_what_it_is_about(settings: dict, name: str) -> None:
    assert default_folder(preset_config("small", **settings)) == Path("runs") / name


def test_a_finished_run_is_not_written_over(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained_run.rglob("*") if path.is_file()}
    for arguments, message in (
        (["--data", DATA, "--out", str(trained_run)], "already holds a run; continue it with --resume"),
        (["--resume", str(trained_run), "--epochs", "9"], "takes no other options, got --epochs"),
        (["--resume", str(trained_run / "pictures")], "holds no run (no config.yaml)"),
        (["--data", DATA, "--method", "magic"], "--method must be one of"),
    ):
        assert main(["train", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in trained_run.rglob("*") if path.is_file()}
