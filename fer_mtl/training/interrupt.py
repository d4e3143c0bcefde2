"""Ctrl-C and its like, which wait for the end of a step, so that what is saved is a state the training really
passed through.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from types import FrameType, TracebackType

from fer_mtl.signals import handling
from fer_mtl.workers import unwanted


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; ``str()`` says where, and how it can be resumed."""


class StepInterrupt:
    """A context in which a signal that ends a program is only noted (``requested``); a second one by Ctrl-C
    takes effect at once.

    In a worker process it is also the one that started it who may want no more. Outside the main thread,
    where Python delivers no signals, it hears none.
    """

    def __init__(self) -> None:
        self._noted = False
        self._handling = ExitStack()

    @property
    def requested(self) -> bool:
        return self._noted or unwanted.is_set()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        # A closed terminal and many schedulers send theirs twice without being impatient.
        if self._noted and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = True

    def __enter__(self) -> StepInterrupt:
        self._handling.enter_context(handling(self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handling.close()

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if the end was asked for since the block was entered."""
        if self.requested:
            raise KeyboardInterrupt
