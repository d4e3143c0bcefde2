"""What is noted, while somebody listens, of how a call was served: rows of the launch tables, kernels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_notes: list[str] | None = None


def is_listening() -> bool:
    """Whether notes are collected now."""
    return _notes is not None


def note(what: object) -> None:
    """Add a line, once, if somebody listens."""
    if _notes is not None and str(what) not in _notes:
        _notes.append(str(what))


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Within the context notes are collected, in the order in which they were first made."""
    global _notes
    before, _notes = _notes, []
    try:
        yield _notes
    finally:
        _notes = before
