from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.cli import main
from fer_mtl.files import alone


def test_a_single_fold_has_a_report(trained_run: Path, tmp_path: Path) -> None:
    assert main(["report", str(trained_run), "--out", str(tmp_path / "out")]) == 0
    assert "# FERSNet (ConvFLU) on procedural" in (tmp_path / "out" / "report.md").read_text()


def test_what_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path} holds no finished run" in capsys.readouterr().err


def test_a_training_keeps_its_own_report(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained_run / "report.html").read_bytes()
    assert main(["report", str(trained_run), "--out", str(trained_run)]) == 2
    assert f"{trained_run} holds a run or an evaluation, whose own report " in capsys.readouterr().err
    assert (trained_run / "report.html").read_bytes() == before


def test_an_evaluation_keeps_its_own_report(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", str(trained_run), *out]) == 0
    assert main(["report", str(trained_run), *out]) == 2
    assert "holds a run or an evaluation, whose own report would be lost" in capsys.readouterr().err


def test_a_report_is_written_by_one_at_a_time(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    with alone(tmp_path):
        assert main(["report", str(trained_run), "--out", str(tmp_path)]) == 2
    assert f"another process is at work in {tmp_path}" in capsys.readouterr().err
