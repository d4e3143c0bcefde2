from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quota", "many"], "--quota must be largest or a number of faces, got 'many'"),
        (["--quota", "0"], "quota must be largest or a number of faces of 1 or more, got 0"),
        (["--confidence", "2"], "confidence must be in [0, 1], got 2.0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["balance", str(trained_run), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unfinished_cross_validation_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folds.json").write_text('{"seeds": [0], "folds": [{"index": 0}, {"index": 1}]}')
    assert main(["balance", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "is not finished: 2 of 2 folds are missing" in capsys.readouterr().err
