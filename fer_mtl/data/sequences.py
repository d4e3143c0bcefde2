"""Which frames of a sequence are pictures of its expression: the last ones or the middle ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fer_mtl.data.expressions import NEUTRAL

Frame = TypeVar("Frame")

BASIC = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""The six basic expressions in canonical order."""


INCOMPLETE = ("refuse", "leave_out")
"""What may become of a sequence that lacks frames, such as those `fer-mtl prepare` found no face in."""


class IncompleteSequence(ValueError):
    """A sequence lacks frames that are needed; the message names its folder and what is missing."""


class Incomplete:
    """Applies one of `INCOMPLETE` to sequences, remembers what was left out. ValueError for another rule."""

    def __init__(self, rule: str) -> None:
        if rule not in INCOMPLETE:
            raise ValueError(f"incomplete must be one of {INCOMPLETE}, got {rule!r}")
        self._rule = rule
        self._left_out: list[str] = []

    @contextmanager
    def sequence(self) -> Iterator[None]:
        """Around the search for one sequence's frames: an incomplete one is raised or remembered."""
        try:
            yield
        except IncompleteSequence as error:
            if self._rule == "refuse":
                raise IncompleteSequence(
                    f"{error}; incomplete=leave_out leaves such sequences out"
                ) from error
            self._left_out.append(str(error))

    def notes(self) -> list[str]:
        """One line per sequence that was left out."""
        return [f"left out: {reason}" for reason in self._left_out]


def check_frames(frames: int) -> int:
    """The number of frames itself. ValueError unless it is an int of at least 1."""
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise ValueError(f"frames must be an int of at least 1, got {frames!r}")
    return frames


def onset_to_apex(
    sequence: Sequence[Frame],
    where: Path,
    expression: str,
    classes: Sequence[str],
    frames: int,
    begins: bool = True,
) -> list[tuple[Frame, str]]:
    """Labelled frames of a sequence that begins neutral and ends at the apex.

    The last `frames` show the expression, and the first one is a neutral face if the classes have that;
    `begins` says whether the sequence is there from its beginning.
    Raises IncompleteSequence for one that is too short or without its neutral beginning.
    """
    needed = check_frames(frames) + (NEUTRAL in classes)
    if len(sequence) < needed:
        raise IncompleteSequence(f"{where} has {len(sequence)} frames, at least {needed} are needed")
    if NEUTRAL in classes and not begins:
        raise IncompleteSequence(
            f"{where} does not begin with its first frame, the neutral one (prepared without neutral?)"
        )
    first = [(sequence[0], NEUTRAL)] if NEUTRAL in classes else []
    return first + [(frame, expression) for frame in sequence[-frames:]]


def middle(sequence: Sequence[Frame], where: Path, frames: int) -> list[Frame]:
    """The `frames` in the middle of a sequence that rises from neutral to the apex and falls back again.

    Raises IncompleteSequence for one that is too short.
    """
    if len(sequence) < check_frames(frames):
        raise IncompleteSequence(f"{where} has {len(sequence)} frames, at least {frames} are needed")
    start = (len(sequence) - frames) // 2
    return list(sequence[start : start + frames])
