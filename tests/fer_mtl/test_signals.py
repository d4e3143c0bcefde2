"""Commands that signals end, and signals that are left alone."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from fer_mtl.cli import main
from fer_mtl.signals import ended_by_signals


def test_every_command_ends_as_after_ctrl_c(
    end: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a scheduler or a closed terminal too, so that half-written files are removed."""
    monkeypatch.setattr("fer_mtl.commands.report.main", lambda _: signal.raise_signal(end))
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err == "fer-mtl report: stopped\n"


def test_tidying_is_disturbed_by_ctrl_c_alone() -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_signals_that_are_ignored_stay_so(end: int) -> None:
    usual = signal.signal(end, signal.SIG_IGN)
    with ended_by_signals():
        assert signal.getsignal(end) == signal.SIG_IGN
    assert signal.signal(end, usual) == signal.SIG_IGN


def test_a_thread_of_another_program_does_without_signals() -> None:
    def work() -> bool:
        with ended_by_signals():
            return True

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result()
