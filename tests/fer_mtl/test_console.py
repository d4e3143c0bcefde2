from __future__ import annotations

import errno
import io

import pytest
from rich.console import Console as RichConsole

from fer_mtl.console import Console


def output(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(output=RichConsole(file=text, force_terminal=terminal, width=60, highlight=False)), text


def test_a_pipe_gets_plain_lines_only() -> None:
    console, text = output(terminal=False)
    with console.bar("epoch 1/2", 3):
        console.advance("loss 1.0")
        console.line("[epoch 1] " + "x" * 100)
    assert text.getvalue() == "[epoch 1] " + "x" * 100 + "\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # not the one of who runs the tests, which may be dumb
    console, text = output(terminal=True)
    with console.bar("epoch 1/2", 3, done=1):
        console.advance("loss 1.0")
    assert "epoch 1/2" in text.getvalue() and "2/3" in text.getvalue()
    assert "frame 7" not in text.getvalue()
    with console.bar("files", 2):
        console.note("frame 7")
    assert "frame 7" in text.getvalue()
    console.note("frame 8")
    console.advance()  # outside of a bar: nothing to advance, no harm


def test_quiet_prints_nothing(capsys) -> None:
    console = Console(quiet=True)
    with console.bar("epoch", 1):
        console.advance()
        console.line("words")
    assert capsys.readouterr().out == ""


def test_names_of_files_are_said_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Console().line("12:cat:30 [red]ü.png")
    assert capsys.readouterr().out == "12:cat:30 [red]ü.png\n"


@pytest.mark.parametrize("writes", [0, 1, 3])
def test_work_goes_on_when_its_terminal_is_closed(writes: int) -> None:
    """Else the end of the bar would hide that the work was stopped, and what it was at would be lost."""

    class Closing(io.StringIO):
        left = writes

        def write(self, text: str) -> int:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    console = Console(output=RichConsole(file=Closing(), force_terminal=True, width=60))
    with pytest.raises(KeyboardInterrupt), console.bar("epoch 1/2", 3):
        console.advance()
        console.line("words")
        raise KeyboardInterrupt
    console.line("the last word")
    assert console.output.quiet


def test_a_full_disk_under_the_log_is_said() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Console(output=RichConsole(file=Full())).line("words")
