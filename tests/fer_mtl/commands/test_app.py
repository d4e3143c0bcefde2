from __future__ import annotations

import signal
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest

from fer_mtl.cli import main
from fer_mtl.commands import app as command


def test_it_serves_until_it_is_stopped(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: int
) -> None:
    pytest.importorskip("gradio", reason="needs gradio (the extra `app`)")

    class Waiting:
        def wait(self) -> None:
            said = capsys.readouterr().out
            assert "trained on procedural" in said
            (address,) = [word for word in said.split() if word.startswith("http")]
            with urlopen(address) as page:
                assert b"Facial expressions, read and redrawn" in page.read()
            signal.raise_signal(end)

    monkeypatch.setattr(command, "Event", Waiting)
    assert main(["app", str(trained_run), "--detector", "whole"]) == 0
    assert capsys.readouterr().out == "stopped\n"


def test_bad_input_is_one_line(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        ([str(trained_run), "--port", "0"], "--port must be from 1 to 65535, got 0"),
        ([str(trained_run), "--detector", "hog"], "detector must be one of haar, whole"),
        ([str(tmp_path / "gone")], "gone"),
        ([str(trained_run), "--detector", "whole", "--host", "203.0.113.1"], "got 203.0.113.1: "),
    ]
    pytest.importorskip("gradio", reason="needs gradio (the extra `app`)")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases.append(([str(trained_run), "--detector", "whole", "--port", port], f"{port} is taken"))
        for arguments, message in cases:
            assert main(["app", *arguments]) == 2
            error = capsys.readouterr().err
            assert message in error and error.count("\n") == 1, error
