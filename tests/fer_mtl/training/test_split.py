from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.split import folds_of, make_split, missing_classes, pick_subjects

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


def test_another_fold_seed_selects_by_other_people(faces: FaceSet, tiny: Tiny) -> None:
    """Also where the folds themselves, as the sorted ones, take no seed."""
    tested, selecting = set(), set()
    for seed in range(4):
        config = tiny(fold_rule="sorted", fold_seed=seed, selection="validation")
        roles = make_split(config, faces).subjects(faces)
        tested.add(tuple(roles["test"]))
        selecting.add(tuple(roles["validation"]))
    assert len(tested) == 1 and len(selecting) > 1


def test_no_subject_has_two_roles(faces: FaceSet, tiny: Tiny) -> None:
    split = make_split(tiny(selection="validation", validation_fraction=0.3), faces)
    roles = split.subjects(faces)
    everyone = [name for names in roles.values() for name in names]
    assert sorted(everyone) == sorted(set(faces.subjects))
    assert all(roles.values())


def test_fewer_subjects_than_folds_are_refused(faces: FaceSet, tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="9 folds need at least 9 subjects, got 8"):
        folds_of(tiny(folds=9), faces)


def test_a_missing_class_has_its_name(faces: FaceSet, tiny: Tiny) -> None:
    without_fear = (faces.labels != faces.classes.index("fear")).nonzero().flatten()
    assert missing_classes(faces, without_fear) == ["fear"]
    assert missing_classes(faces.subset(without_fear), torch.arange(3)) == [
        name for name in faces.classes[3:] if name != "fear"
    ]
    only_one = faces.subset([i for i, s in enumerate(faces.subjects) if s == "P0000" or faces.labels[i] < 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = folds_of(tiny(), only_one)
    assert any(missing_classes(only_one, fold.train) for fold in folds)


def test_a_choice_of_subjects_is_part_of_every_larger_one(faces: FaceSet) -> None:
    everything = torch.arange(len(faces))
    chosen = [
        {faces.subjects[i] for i in pick_subjects(faces, everything, count, seed=3).tolist()}
        for count in (2, 4, 7)
    ]
    assert [len(names) for names in chosen] == [2, 4, 7]
    assert chosen[0] < chosen[1] < chosen[2]
    assert pick_subjects(faces, everything, 8).tolist() == everything.tolist()


def test_a_choice_keeps_the_shares_of_the_expressions(faces: FaceSet) -> None:
    """Half of the subjects show three expressions only, the others the rest: two must show nearly all."""
    first = {"P0000", "P0001", "P0002", "P0003"}
    kept = [i for i, s in enumerate(faces.subjects) if (s in first) == bool(faces.labels[i] < 3)]
    some = faces.subset(kept)
    for seed in range(6):
        picked = pick_subjects(some, torch.arange(len(some)), 2, seed)
        assert len({some.subjects[i] for i in picked.tolist()} & first) == 1


def test_training_subjects_shrink_and_the_test_fold_stays(faces: FaceSet, tiny: Tiny) -> None:
    whole, small = make_split(tiny(), faces), make_split(tiny(train_subjects=3), faces)
    assert len(small.subjects(faces)["train"]) == 3
    assert torch.equal(whole.test, small.test)
    with pytest.raises(ValueError, match="train_subjects must be at most the 6 of the fold, got 7"):
        make_split(tiny(train_subjects=7), faces)
