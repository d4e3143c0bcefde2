from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_mtl.data.pairs import PairSampler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


people = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40)


@given(people, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_targets_are_the_same_subject_with_another_expression(
    images: list[tuple[int, int]], seed: int
) -> None:
    subjects = [f"S{subject}" for subject, _ in images]
    labels = torch.tensor([label for _, label in images])
    pairs = PairSampler(labels, subjects, 4, generator(seed)).sample(torch.arange(len(images)))
    assert pairs.source.tolist() == list(range(len(images)))
    assert labels[pairs.target].equal(pairs.target_label)
    for source, target in zip(pairs.source.tolist(), pairs.target.tolist(), strict=True):
        assert subjects[source] == subjects[target]
        shown = {label for subject, label in images if f"S{subject}" == subjects[source]}
        assert (images[source][1] != images[target][1]) == (len(shown) > 1)


def test_expressions_and_images_are_equally_likely() -> None:
    # One subject: class 0 once, class 1 once, class 2 five times. From class 0, 1 and 2 are equally likely.
    labels = torch.tensor([0, 1, 2, 2, 2, 2, 2])
    sampler = PairSampler(labels, ["a"] * 7, 3, generator())
    pairs = sampler.sample(torch.zeros(10_000, dtype=torch.int64))
    shares = torch.bincount(pairs.target, minlength=7) / 10_000
    assert torch.allclose(shares, torch.tensor([0.0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]), atol=0.02)


def test_a_subject_with_one_expression_and_one_image() -> None:
    pairs = PairSampler([1, 0, 2], ["only", "b", "b"], 3, generator()).sample([0])
    assert (pairs.target.tolist(), pairs.target_label.tolist()) == ([0], [1])


def test_the_generators_state_is_all_that_is_random() -> None:
    labels, subjects = torch.arange(60) % 6, [f"S{i // 12}" for i in range(60)]
    source = torch.arange(60)
    first = PairSampler(labels, subjects, 6, generator(5))
    first.sample(source)
    state = first.generator.get_state()
    expected = first.sample(source)
    resumed = PairSampler(labels, subjects, 6, generator(99))
    resumed.generator.set_state(state)
    torch.rand(3)  # the global generator plays no part
    assert resumed.sample(source).target.equal(expected.target)
    assert not resumed.sample(source).target.equal(expected.target)


def test_targets_come_from_the_pool_alone() -> None:
    labels, subjects = torch.arange(40) % 4, [f"S{i // 8}" for i in range(40)]
    pool = torch.arange(0, 40)[torch.arange(40) % 8 < 5]
    sampler = PairSampler(labels, subjects, 4, generator(), pool)
    for _ in range(10):
        assert set(sampler.sample(torch.arange(40)).target.tolist()) <= set(pool.tolist())
    with pytest.raises(ValueError, match=r"images \[39\] belong to subjects without an image in the pool"):
        PairSampler(labels, subjects, 4, generator(), torch.arange(8)).sample([0, 39])


def test_no_sources_give_no_pairs() -> None:
    pairs = PairSampler([0, 1], ["a", "a"], 2, generator()).sample([])
    assert [part.shape for part in pairs] == [(0,)] * 3
    assert all(part.dtype == torch.int64 for part in pairs)


def test_bad_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, got 0\.\.2"):
        PairSampler([0, 2], ["a", "a"], 2, generator())
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        PairSampler([0, 1], ["a"], 2, generator())
