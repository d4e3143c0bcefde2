from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
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


def test_the_folder_of_another_user_is_no_hindrance(trained_run: Path, tmp_path: Path) -> None:
    """gradio wants one for all users of a machine, which belongs to the first."""
    pytest.importorskip("gradio", reason="needs gradio (the extra `app`)")
    (tmp_path / "gradio").touch()  # a folder that nobody may write to stops no root
    program = (
        "import sys\nfrom fer_mtl.commands import app\n"
        "app.Event = type('Event', (), {'wait': lambda self: None})\n"
        "sys.exit(app.main([sys.argv[1], '--detector', 'whole']))"
    )
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    variables.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "-c", program, str(trained_run)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gradio"]


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
