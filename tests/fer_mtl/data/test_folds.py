from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_mtl.data.folds import RULES, Fold, check_folds, make_folds, split_validation

SUBJECT_RULES = [rule for rule in RULES if rule != "official"]


def sample(n_subjects: int, seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, list[str]]:
    """Each subject shows some of the classes, in one to three images."""
    rng = np.random.default_rng(seed)
    labels, subjects = [], []
    for subject in range(n_subjects):
        for label in rng.choice(classes, rng.integers(1, classes + 1), replace=False):
            count = int(rng.integers(1, 4))
            labels += [int(label)] * count
            subjects += [f"S{subject:03d}"] * count
    return torch.tensor(labels), subjects


@given(st.integers(2, 30), st.integers(2, 12), st.sampled_from(SUBJECT_RULES), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_folds_are_disjoint_by_subject_and_cover_everything(
    n_subjects: int, n_splits: int, rule: str, seed: int
) -> None:
    labels, subjects = sample(n_subjects, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if n_subjects < n_splits:
            with pytest.raises(ValueError, match=f"at least {n_splits} subjects, got {n_subjects}"):
                make_folds(labels, subjects, n_splits, rule, seed)
            return
        folds = make_folds(labels, subjects, n_splits, rule, seed)
    assert len(folds) == n_splits
    tested: list[int] = []
    for fold in folds:
        train = {subjects[i] for i in fold.train.tolist()}
        test = {subjects[i] for i in fold.test.tolist()}
        assert test and train and not train & test
        assert sorted(test) == list(fold.test_subjects)
        assert sorted(fold.train.tolist() + fold.test.tolist()) == list(range(len(subjects)))
        tested += fold.test.tolist()
    assert sorted(tested) == list(range(len(subjects)))


def test_stratified_folds_have_equal_shares_of_every_class() -> None:
    """Ten people of each class for five folds. Scikit-learn before 1.8 shuffled among them what they show."""
    labels = torch.arange(4).repeat_interleave(3).repeat(10)
    subjects = [f"S{i // 3:03d}" for i in range(len(labels))]
    for fold in make_folds(labels, subjects, 5):
        assert torch.bincount(labels[fold.test], minlength=4).tolist() == [3 * 2] * 4


def test_stratified_is_the_named_split_of_scikit_learn() -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    labels, subjects = sample(40)
    reference = StratifiedGroupKFold(n_splits=10, shuffle=True, random_state=0)
    expected = [test.tolist() for _, test in reference.split(labels, labels, subjects)]
    assert [fold.test.tolist() for fold in make_folds(labels, subjects)] == expected


def test_the_seed_moves_only_the_stratified_rule() -> None:
    labels, subjects = sample(40)
    tests = {
        (rule, seed): [f.test.tolist() for f in make_folds(labels, subjects, 5, rule, seed)]
        for rule in SUBJECT_RULES
        for seed in (0, 1)
    }
    assert tests["stratified", 0] != tests["stratified", 1]
    assert tests["sorted", 0] == tests["sorted", 1]


def test_sorted_takes_runs_with_the_remainder_in_the_last() -> None:
    subjects = [f"S{i:03d}" for i in reversed(range(23)) for _ in range(2)]
    folds = make_folds([0, 1] * 23, subjects, 10, "sorted")
    assert [len(fold.test_subjects) for fold in folds] == [2] * 9 + [5]
    assert folds[0].test_subjects == ("S000", "S001")
    assert folds[9].test_subjects == ("S018", "S019", "S020", "S021", "S022")


def test_a_class_that_training_lacks_is_warned_of() -> None:
    labels = [0] * 9 + [1]
    subjects = [f"S{i}" for i in range(10)]
    with pytest.warns(UserWarning, match=r"fold 4 of the rule 'sorted' leaves no image of class \[1\]"):
        make_folds(labels, subjects, 5, "sorted")


def test_complete_training_parts_are_not_warned_of() -> None:
    labels, subjects = [0, 1] * 10, [f"S{i // 2}" for i in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_folds(labels, subjects, 5)


def test_official_is_one_fold_of_the_sets_own_parts() -> None:
    subjects = ["a", "b", "c", "d", "e"]
    parts = ["test", "train", "validation", "train", "test"]
    (fold,) = make_folds([0, 0, 1, 1, 1], subjects, 10, "official", official=parts)
    assert (fold.index, fold.train.tolist(), fold.test.tolist()) == (0, [1, 3], [0, 4])
    assert fold.test_subjects == ("a", "e")


@pytest.mark.parametrize(
    ("parts", "subjects", "message"),
    [
        (None, "abcd", "needs a data set with official training and test parts"),
        (["train"] * 4, "abcd", "got 4 images to train and 0 to test"),
        (["train", "test"], "abcd", "got 1 images to train and 1 to test"),
        (["train", "train", "test", "test"], "abbc", "the official split has subjects on both sides: b"),
    ],
)
def test_official_parts_that_do_not_serve(parts: list[str] | None, subjects: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_folds([0, 1, 0, 1], list(subjects), rule="official", official=parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "random"}, "rule must be one of .*'random'"),
        ({"n_splits": 1}, "n_splits must be an int of at least 2, got 1"),
        ({"n_splits": True}, "n_splits"),
        ({"labels": [0, 1]}, r"one length, got \[2\] and 20"),
    ],
)
def test_bad_arguments(changes: dict, message: str) -> None:
    arguments: dict = {"labels": [0, 1] * 10, "subjects": [f"S{i // 2}" for i in range(20)], "n_splits": 5}
    with pytest.raises(ValueError, match=message):
        make_folds(**(arguments | changes))


@given(st.integers(2, 30), st.floats(0.02, 0.5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_validation_takes_whole_training_subjects(n_subjects: int, fraction: float, seed: int) -> None:
    labels, subjects = sample(n_subjects + 1, seed)
    given_ = [i for i, subject in enumerate(subjects) if subject != "S000"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train, validation = split_validation(labels, subjects, given_, fraction, seed)
    assert sorted(train.tolist() + validation.tolist()) == given_
    assert len(train) and len(validation)
    assert not {subjects[i] for i in train.tolist()} & {subjects[i] for i in validation.tolist()}


def test_validation_has_about_the_wanted_share_and_all_classes() -> None:
    labels, subjects = sample(100)
    train, validation = split_validation(labels, subjects, torch.arange(len(labels)), 0.2)
    assert 0.12 < len(validation) / len(labels) < 0.28
    assert set(labels[validation].tolist()) == set(labels[train].tolist()) == set(range(4))


@pytest.mark.parametrize("fraction", [0.4, 0.3, 0.15, 0.45])
def test_validation_has_the_share_that_was_asked_for(fraction: float) -> None:
    """60 subjects of five images allow each of these to within a subject or two."""
    labels, subjects = torch.arange(300) % 5, [f"S{i // 5:02d}" for i in range(300)]
    train, validation = split_validation(labels, subjects, torch.arange(300), fraction)
    assert len(train) + len(validation) == 300
    assert len(validation) / 300 == pytest.approx(fraction, abs=2 / 60)


def test_a_small_share_is_taken_from_parts_as_small() -> None:
    """A fiftieth of 100 subjects is two of them, not the five of a twentieth."""
    labels, subjects = torch.arange(500) % 5, [f"S{i // 5:03d}" for i in range(500)]
    assert len(split_validation(labels, subjects, torch.arange(500), 0.02)[1]) == 2 * 5


def test_validation_refuses_what_cannot_be_split() -> None:
    labels, subjects = sample(5)
    with pytest.raises(ValueError, match=r"fraction must be above 0 and at most 0.5, got 0.9"):
        split_validation(labels, subjects, range(len(labels)), 0.9)
    one = [i for i, subject in enumerate(subjects) if subject == "S001"]
    with pytest.raises(ValueError, match="at least 2 training subjects, got 1"):
        split_validation(labels, subjects, one, 0.5)


def test_folds_survive_json() -> None:
    labels, subjects = sample(12)
    folds = make_folds(labels, subjects, 3)
    again = [Fold.from_json(data) for data in json.loads(json.dumps([f.to_json() for f in folds]))]
    check_folds(again, subjects)
    for fold, copy in zip(folds, again, strict=True):
        assert (fold.index, fold.test_subjects) == (copy.index, copy.test_subjects)
        assert fold.train.equal(copy.train) and fold.test.equal(copy.test)
        assert copy.train.dtype == torch.int64


@pytest.mark.parametrize(
    ("train", "test", "names", "message"),
    [
        ([0, 1, 2], [3], ("b",), "fold 0 has subjects on both sides: b"),
        ([2, 3], [0, 1], ("b",), "other test subjects"),
        ([2, 3], [], (), "empty test part"),
        ([2, 9], [0, 1], ("a",), "beyond the 4"),
        ([2, 3], [0, 1], ("a",), "test 2 of 4 images"),
    ],
)
def test_stored_folds_that_do_not_fit_are_refused(
    train: list[int], test: list[int], names: tuple[str, ...], message: str
) -> None:
    fold = Fold(0, torch.tensor(train), torch.tensor(test, dtype=torch.int64), names)
    with pytest.raises(ValueError, match=message):
        check_folds([fold], ["a", "a", "b", "b"])
