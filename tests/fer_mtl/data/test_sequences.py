from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.data.sequences import Incomplete, IncompleteSequence, middle, onset_to_apex

HERE = Path("S005/001")


def test_the_last_frames_show_the_expression_and_the_first_is_neutral() -> None:
    assert onset_to_apex("abcde", HERE, "fear", ("fear",), 2) == [("d", "fear"), ("e", "fear")]
    assert onset_to_apex("abcde", HERE, "fear", ("fear", "neutral"), 1) == [("a", "neutral"), ("e", "fear")]


@pytest.mark.parametrize(("frames", "expected"), [(1, "d"), (2, "cd"), (3, "cde"), (7, "abcdefg")])
def test_the_middle(frames: int, expected: str) -> None:
    assert middle("abcdefg", HERE, frames) == list(expected)


def test_sequences_that_are_too_short_are_named() -> None:
    with pytest.raises(ValueError, match="S005/001 has 3 frames, at least 4 are needed"):
        onset_to_apex("abc", HERE, "fear", ("fear", "neutral"), 3)
    with pytest.raises(ValueError, match="S005/001 has 2 frames, at least 3 are needed"):
        middle("ab", HERE, 3)


def test_a_neutral_frame_must_be_the_first_of_its_sequence() -> None:
    with pytest.raises(ValueError, match="S005/001 does not begin with its first frame, the neutral one"):
        onset_to_apex("cde", HERE, "fear", ("fear", "neutral"), 2, begins=False)
    assert len(onset_to_apex("cde", HERE, "fear", ("fear",), 2, begins=False)) == 2


@pytest.mark.parametrize("frames", [0, -1, True, 2.0])
def test_frames_must_be_a_positive_int(frames: int) -> None:
    with pytest.raises(ValueError, match="frames must be an int of at least 1"):
        middle("abcdef", HERE, frames)


def test_incomplete_sequences_are_refused_or_noted() -> None:
    with (
        pytest.raises(IncompleteSequence, match=r"2 frames, .*; incomplete=leave_out"),
        Incomplete("refuse").sequence(),
    ):
        middle("ab", HERE, 3)
    short = Incomplete("leave_out")
    with short.sequence():
        middle("ab", HERE, 3)
    assert short.notes() == ["left out: S005/001 has 2 frames, at least 3 are needed"]
    with pytest.raises(ValueError, match="frames must be"), short.sequence():
        middle("ab", HERE, 0)
    with pytest.raises(ValueError, match=r"incomplete must be one of .*, got 'ignore'"):
        Incomplete("ignore")
