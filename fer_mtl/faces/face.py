"""A face in a picture, and what becomes of an error in the search for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fer_mtl.data.images import ImageError

Point = tuple[float, float]


@dataclass(frozen=True)
class Face:
    """A face in a picture; coordinates in pixels from the left and the top.

    box: left, top, width, height
    points: the two eyes, or the two eyes, the nose and the two corners of the mouth, of each pair the one
        further to the left in the picture first; none where they were not found
    score: how sure the detector is, in units of its own
    """

    box: tuple[float, float, float, float]
    points: tuple[Point, ...] = ()
    score: float = 1.0

    def __post_init__(self) -> None:
        if len(self.points) not in (0, 2, 5):
            raise ValueError(f"points must be none, two or five, got {len(self.points)}")

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]


@contextmanager
def named(error: type[Exception]) -> Iterator[None]:
    """Raise ImageError for an error of OpenCV: one odd picture must not end the search of all others."""
    try:
        yield
    except error as found:
        raise ImageError(f"OpenCV cannot search it for faces: {found}") from found
