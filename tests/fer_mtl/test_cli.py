from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from fer_mtl import cli
from fer_mtl.console import Console


def stand_in(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, code: Any = None) -> None:
    """Have every command end so."""

    def run(arguments: list[str]) -> Any:
        if error is not None:
            raise error
        return code

    monkeypatch.setattr(cli, "load_command", lambda name: SimpleNamespace(main=run))


def test_every_command_is_listed_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"\n  {name} " in listed
        with pytest.raises(SystemExit) as left:
            cli.main([name, "--help"])
        assert left.value.code == 0
        said = capsys.readouterr().out
        assert f"usage: fer-mtl {name}" in said and "%%" not in said
    assert cli.main([]) == 2


def test_a_large_photograph_is_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str]) -> None:
        warnings.warn(
            "Image size (108000000 pixels) exceeds limit of 89478485 pixels, could be decompression bomb DOS "
            "attack.",
            Image.DecompressionBombWarning,
            stacklevel=1,
        )
        warnings.warn("something else", UserWarning, stacklevel=1)

    monkeypatch.setattr(cli, "load_command", lambda name: SimpleNamespace(main=run))
    with pytest.warns(UserWarning, match="something else") as seen:
        assert cli.main(["predict"]) == 0
    assert len(seen) == 1


def test_a_name_that_the_output_cannot_show_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    output = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    run = SimpleNamespace(main=lambda arguments: Console().line("Müller.png: anger"))
    monkeypatch.setattr(cli, "load_command", lambda name: run)
    assert cli.main(["predict"]) == 0
    output.flush()
    assert written.getvalue() == rb"M\xfcller.png: anger" + b"\n"


def test_an_unknown_command_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["learn"]) == 2
    assert "unknown command 'learn'; known are demo, datasets, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("two\n lines"), 2, "fer-mtl train: error: two lines\n"),
        (FileNotFoundError("no such file"), 2, "fer-mtl train: error: no such file\n"),
        (RuntimeError("a bug"), 1, "fer-mtl train: error: a bug (--debug shows where)\n"),
        (MemoryError(), 2, "fer-mtl train: error: not enough memory\n"),
        (
            MemoryError("Unable to\nallocate"),
            2,
            "fer-mtl train: error: not enough memory: Unable to allocate\n",
        ),
        (KeyboardInterrupt("stopped after epoch 3"), 130, "fer-mtl train: stopped after epoch 3\n"),
        (ModuleNotFoundError("", name="cv2.data"), 2, "'selective-feature-sharing[faces]'\n"),
        (ModuleNotFoundError("", name="safetensors"), 2, "'selective-feature-sharing[fer]'\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(monkeypatch, error)
    assert cli.main(["train"]) == code
    said = capsys.readouterr().err
    assert said.endswith(message) and said.count("\n") == 1
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            cli.main(["train", "--debug"])


def test_our_own_missing_module_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, ModuleNotFoundError("", name="fer_mtl.nowhere"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


def test_a_command_that_returns_nothing_has_gone_well(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, None)
    assert cli.main(["train"]) == 0
    stand_in(monkeypatch, None, 3)
    assert cli.main(["train"]) == 3


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_names_that_no_report_can_hold_are_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's name stands in the report of its evaluation, which could not be written in the end."""
    stand_in(monkeypatch, AssertionError("it has begun"))
    assert cli.main(["evaluate", os.fsdecode(b"run-\xfc"), "--out", "report"]) == 2
    said = capsys.readouterr().err
    assert said == "fer-mtl evaluate: error: file names must be UTF-8, got run-\\xfc: rename it\n"


@pytest.mark.parametrize("arguments", [["-m", "fer_mtl", "--help"], ["-m", "fused_ops", "doctor"]])
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_ends_a_command_quietly(arguments: list[str], buffered: bool) -> None:
    """As with ``| head``, whether Python collects the output or writes line by line."""
    ours, theirs = os.pipe()
    os.close(ours)
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    found = subprocess.run(
        [sys.executable, *arguments], stdout=theirs, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(theirs)
    assert found.returncode in (1, -signal.SIGPIPE) and found.stderr == ""
