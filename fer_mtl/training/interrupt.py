"""Ctrl-C that waits for the end of a step, so that what is saved is a state the training really passed
through.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; ``str()`` says where, and how it can be resumed."""


class StepInterrupt:
    """A context in which the first Ctrl-C is only noted (``requested``) and the second one takes effect at
    once.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: object = None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> StepInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if Ctrl-C came since the block was entered."""
        if self.requested:
            raise KeyboardInterrupt
