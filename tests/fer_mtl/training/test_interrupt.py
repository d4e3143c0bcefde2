from __future__ import annotations

import signal
import threading

import pytest

from fer_mtl.training.interrupt import StepInterrupt
from fer_mtl.workers import unwanted


def test_the_first_ctrl_c_waits_and_the_second_does_not() -> None:
    with StepInterrupt() as interrupt:
        interrupt.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_others_wait_however_often_they_come(number: signal.Signals) -> None:
    """A closed terminal signals twice, from the shell and from the system."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StepInterrupt() as interrupt:
            signal.raise_signal(number)
            signal.raise_signal(number)
            with pytest.raises(KeyboardInterrupt):
                interrupt.check()
    finally:
        assert signal.signal(number, before) == signal.SIG_DFL


def test_ctrl_c_for_the_foreground_leaves_the_background_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StepInterrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_works_for_another_stops_when_that_is_gone() -> None:
    try:
        with StepInterrupt() as interrupt:
            unwanted.set()
            with pytest.raises(KeyboardInterrupt):
                interrupt.check()
    finally:
        unwanted.clear()


def test_the_former_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), StepInterrupt():
        assert signal.getsignal(signal.SIGINT) is not before
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_it_is_harmless_outside_the_main_thread() -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            with StepInterrupt() as interrupt:
                interrupt.check()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not problems
