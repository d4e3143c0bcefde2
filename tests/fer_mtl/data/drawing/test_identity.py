from __future__ import annotations

from dataclasses import fields

import numpy as np

from fer_mtl.data.drawing.identity import BEARDS, HAIR_STYLES, Identity, sample_identity


def people(n: int = 300) -> list[Identity]:
    return [sample_identity(np.random.default_rng([0, i])) for i in range(n)]


def test_the_generator_decides() -> None:
    assert sample_identity(np.random.default_rng(3)) == sample_identity(np.random.default_rng(3))
    assert len({repr(person) for person in people(50)}) == 50


def test_every_choice_occurs() -> None:
    crowd = people()
    assert {person.hair for person in crowd} == set(HAIR_STYLES)
    assert {person.beard for person in crowd} == set(BEARDS)
    assert {person.glasses for person in crowd} == {"none", "round", "square"}


def test_every_trait_varies() -> None:
    crowd = people()
    for trait in fields(Identity):
        assert len({repr(getattr(person, trait.name)) for person in crowd}) > 1, trait.name


def test_colours_are_colours() -> None:
    for person in people():
        for trait in ("skin", "hair_colour", "brow_colour", "iris", "lip_colour", "shirt", "background"):
            assert all(0 <= channel <= 1 for channel in getattr(person, trait))


def test_brows_stand_out_from_the_skin() -> None:
    assert all(sum(person.brow_colour) < 0.6 * sum(person.skin) for person in people())
