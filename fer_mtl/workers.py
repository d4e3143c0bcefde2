"""Processes that do long work for this one and do not outlive it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from fer_mtl.signals import ENDING

#: Set in a worker once nobody wants its work any more; long work looks at it and stops.
unwanted = threading.Event()

#: What a worker does is done while it holds this.
busy = threading.Lock()


@contextmanager
def processes(
    count: int, start: Callable[..., None], arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``count`` fresh processes, in each of which ``start(*arguments)`` has run: forked ones would
    inherit threads of torch in an unknown state.

    What is submitted must hold ``busy``. When the block is left by an exception, or this process dies in
    whatever way, ``unwanted`` is set in the workers, and each ends as soon as it is no longer busy. They hear
    no signals themselves: a terminal sends its own to all, others to this process alone.

    Raises ``OSError`` where the system has no semaphores for them.
    """
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    try:
        pool = ProcessPoolExecutor(count, context, _start, (theirs, start, arguments))
    except OSError as error:  # of a semaphore, which knows no name of a file
        raise OSError(
            f"worker processes need a /dev/shm that can be written to ({error.strerror}); --workers 1 needs "
            "none"
        ) from error
    try:
        for _ in range(count):
            pool.submit(_begin)
        yield pool
    except BaseException:
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def _begin() -> None:
    """Each process is started by something to do. The pool learns of one that dies only if a result has come
    since it was started, and those of work that takes hours would be late."""


def _start(lifeline: Connection, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    start(*arguments)


def _end_with(lifeline: Connection) -> None:
    """Wait for the other end to be closed, by its owner or by the system when that is no more."""
    try:
        lifeline.recv()
    except EOFError:
        unwanted.set()
    with busy:
        os._exit(0)  # the main thread waits for work, and would for ever
