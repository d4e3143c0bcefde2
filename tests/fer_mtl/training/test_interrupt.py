from __future__ import annotations

import signal
import threading

import pytest

from fer_mtl.training.interrupt import StepInterrupt


def test_the_first_ctrl_c_waits_and_the_second_does_not() -> None:
    with StepInterrupt() as interrupt:
        interrupt.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


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
