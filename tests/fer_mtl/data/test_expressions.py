from __future__ import annotations

import pytest

from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL, canonical, expression_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Happy", "happiness"), (" SAD ", "sadness"), ("surprise", "surprise"), ("Neutral", NEUTRAL)],
)
def test_common_spellings_are_understood(name: str, expected: str) -> None:
    assert canonical(name) == expected
    assert expression_of(name, (*EXPRESSIONS, NEUTRAL), "here") == expected


def test_names_of_ones_own_are_found_as_they_are_written() -> None:
    assert expression_of("BORED", ("Bored", "Happy"), "here") == "Bored"
    assert expression_of("happiness", ("Bored", "Happy"), "here") == "Happy"


def test_accents_are_the_same_however_they_are_stored() -> None:
    """Archives made on a Mac have a letter and its accent apart; the error showed two equal names."""
    for name, known in (("cole\u0300re", "col\u00e8re"), ("col\u00e8re", "cole\u0300re")):
        assert expression_of(name, (known, "Happy"), "here") == known


def test_two_spellings_may_be_two_expressions() -> None:
    for known in (("neutral", "calm"), ("calm", "neutral")):
        assert [expression_of(name, known, "here") for name in ("Neutral", "calm")] == ["neutral", "calm"]
    with pytest.raises(ValueError, match="'happiness' in photos could be happy or joy"):
        expression_of("happiness", ("happy", "joy"), "photos")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown expression 'bored' in photos/bored; known: anger, .*surprise"
    ):
        expression_of("bored", EXPRESSIONS, "photos/bored")
