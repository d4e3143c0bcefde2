from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_mtl.cli import main
from fer_mtl.training import balance, checkpoints


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


def test_a_cross_validation_goes_on_where_it_was_stopped(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    for fold in (0, 1):
        shutil.copytree(trained_run, root / "seed-0" / f"fold-{fold}")
    (root / "folds.json").write_text('{"seeds": [0], "folds": [{"index": 0}, {"index": 1}]}')

    def run(*more: str) -> int:
        gates = ["--quota", "7", "--confidence", "0", "--identity", "-1", "--attempts", "20"]
        return main(["balance", str(root), "--out", str(out), *gates, *more])

    assert run() == 0
    first, second = out / "seed-0" / "fold-0", out / "seed-0" / "fold-1"
    assert list(first.glob("faces/*.png"))
    shutil.rmtree(second)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(first.rglob("*"))]
    capsys.readouterr()
    assert run() == 0
    assert capsys.readouterr().out.count("made already") == 1
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted(first.rglob("*"))]
    assert (second / "manifest.jsonl").is_file()

    assert run("--seed", "1") == 2
    assert f"{first} already holds a manifest" in capsys.readouterr().err
    best = root / "seed-0" / "fold-1" / "best.pt"
    content = checkpoints.load(best)
    next(iter(content["model"].values())).mul_(2)  # as if it had been trained anew
    checkpoints.save(content, best)
    assert run() == 2
    assert f"{second} already holds a manifest" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "times"), [("to_image", 1), ("write_text", 0), ("write_json", 0)])
def test_a_stop_while_faces_are_written_leaves_the_same_command_free_to_go_on(
    name: str, times: int, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["balance", str(trained_run), "--out", str(tmp_path), "--quota", "70", "--confidence", "0"]
    command += ["--identity", "-1"]
    with monkeypatch.context() as patch:
        patch.setattr(balance, name, stopping_after(times, getattr(balance, name)))
        assert main(command) == 130
    assert main(command) == 0
    assert len(list(tmp_path.glob("faces/*.png"))) == len((tmp_path / "manifest.jsonl").open().readlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["balance.json", "faces", "manifest.jsonl"]


def stopping_after(times: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = iter(range(times))

    def call(*args: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    return call
