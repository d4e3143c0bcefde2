"""What is noted, while somebody listens, of how a call was served: rows of the launch tables, kernels.

A thread that serves a call listens to itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class _Heard(threading.local):
    notes: list[str] | None = None


_heard = _Heard()


def is_listening() -> bool:
    """Whether notes are collected now."""
    return _heard.notes is not None


def note(what: object) -> None:
    """Add a line, once, if somebody listens."""
    if _heard.notes is not None and str(what) not in _heard.notes:
        _heard.notes.append(str(what))


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Within the context notes are collected, in the order in which they were first made."""
    before = _heard.notes
    notes: list[str] = []
    _heard.notes = notes
    try:
        yield notes
    finally:
        _heard.notes = before
