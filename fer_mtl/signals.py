"""The signals that end a program: Ctrl-C, a closed terminal, a system or a scheduler that wants it gone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

# Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """``handler`` gets the signals that end a program while the block runs.

    One that is ignored, as nohup and the background of a script have it, stays so. Outside the main thread,
    where Python delivers none, nothing is done.
    """
    if current_thread() is not main_thread():
        yield
        return
    heard = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let every signal that ends a program end the block as Ctrl-C does, so that it can tidy up. A closed
    terminal often sends its signal twice; the tidying is left in peace by all but another Ctrl-C."""
    ending = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if number == signal.SIGINT or not ending:
            ending = True
            raise KeyboardInterrupt

    with handling(end):
        yield
