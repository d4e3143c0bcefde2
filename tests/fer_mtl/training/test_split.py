from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fer_mtl.data import FaceSet
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.split import make_split

Tiny = Callable[..., TrainConfig]


def in_parts(faces: FaceSet, **counts: int) -> FaceSet:
    """The faces with every image a subject of its own, the first of them in the parts in this order."""
    split = [part for part, count in counts.items() for _ in range(count)]
    return replace(faces, subjects=list(faces.sources), split=split, known_subjects=False)


def test_roles_share_no_subject(tiny: Tiny, faces: FaceSet) -> None:
    split = make_split(tiny(selection="validation"), faces)
    roles = [set(subjects) for subjects in split.subjects(faces).values()]
    assert all(roles) and not roles[0] & roles[1] and not roles[0] & roles[2] and not roles[1] & roles[2]
    assert sum(len(part) for part in (split.train, split.validation, split.test)) == len(faces)


def test_no_fold_trains_on_everyone(tiny: Tiny, faces: FaceSet) -> None:
    split = make_split(tiny(fold=None), faces)
    assert len(split.train) == len(faces) and not len(split.test)


def test_the_official_parts(tiny: Tiny, faces: FaceSet) -> None:
    official = in_parts(faces, train=30, validation=10, test=16)
    split = make_split(tiny(fold_rule="official"), official)
    assert (split.train.tolist(), split.test.tolist()) == (list(range(30)), list(range(40, 56)))
    assert not len(split.validation)  # nothing is to be selected: that part is left alone
    split = make_split(tiny(fold_rule="official", selection="validation"), official)
    assert split.train.tolist() == list(range(30))
    assert split.validation.tolist() == list(range(30, 40))


def test_without_an_official_validation_part_one_is_taken_from_training(tiny: Tiny, faces: FaceSet) -> None:
    official = in_parts(faces, train=40, test=16)
    split = make_split(tiny(fold_rule="official", selection="validation"), official)
    assert sorted(split.train.tolist() + split.validation.tolist()) == list(range(40))
    assert len(split.validation)


def test_a_set_without_official_parts(tiny: Tiny, faces: FaceSet) -> None:
    with pytest.raises(ValueError, match="needs a data set with official training and test parts"):
        make_split(tiny(fold_rule="official"), faces)
