"""The demonstration, as short as it can be: every run, the comparison, the judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer_mtl.cli import main
from fer_mtl.demo import HEADER, JUDGE, TITLES, demo_config, rows, run_demo
from fer_mtl.files import alone

CONFIG = demo_config(
    data="procedural:num_subjects=6,images_per_expression=1,variation=0",
    folds=3,
    epochs=1,
    model={"in_channels": 1, "image_size": 32, "width": 0.0625},
    identity={"epochs": 1},
)


def test_all_ways_are_compared_and_judged_by_another(tmp_path: Path) -> None:
    report = run_demo(tmp_path / "demo", config=CONFIG)
    assert list(report["runs"]) == list(TITLES)
    assert report["runs"][JUDGE]["expression_accuracy"] is None
    for name in ("convflu", "hard", "none"):
        own = json.loads((tmp_path / "demo" / name / "report.json").read_text())
        assert JUDGE in own["synthesis"]["judge"]
        assert report["runs"][name]["expression_accuracy"] == own["synthesis"]["expression_accuracy"]
    table = rows(report)
    assert {len(row) for row in table} == {len(HEADER)}
    assert table[0][2:4] == ["", ""]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert all(title in page for title in TITLES.values())
    assert page.count("data:image/png;base64") >= 4
    with pytest.raises(FileExistsError):
        run_demo(tmp_path / "demo", config=CONFIG)


def test_another_training_is_not_written_over(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained_run / "report.json").read_bytes()
    assert main(["demo", "--out", str(trained_run)]) == 2
    assert "holds a run or an evaluation, whose own report would be lost" in capsys.readouterr().err
    assert (trained_run / "report.json").read_bytes() == before


def test_two_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second one trained the judge of the first one's faces anew."""
    pytest.importorskip("fcntl")
    with alone(tmp_path):
        assert main(["demo", "--out", str(tmp_path), "--epochs", "1"]) == 2
    assert f"another process is at work in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
