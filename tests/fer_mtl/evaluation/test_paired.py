from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.paired import comparable, compare, reorder
from fer_mtl.evaluation.runs import load_run
from fer_mtl.training.config import TrainConfig
from tests.fer_mtl.conftest import TINY_DATA

Tiny, MakeUp = Callable[..., TrainConfig], Callable[..., Path]


def test_images_are_paired_by_name(faces: FaceSet, tiny: Tiny, made_up: MakeUp) -> None:
    first = load_run(made_up("first", tiny(), (0, 1), {faces.sources[3]}))
    second = load_run(made_up("second", tiny(model={"sharing": "nddr"}), (0, 2), set(faces.sources[3:9])))
    for key, found in list(second.predictions.items()):
        second.predictions[key] = reorder(found, found.source[::-1])
        assert second.predictions[key].source == found.source[::-1]
        assert second.predictions[key].correct.tolist() == found.correct.tolist()[::-1]
    assert comparable(first, second)
    found = compare(first, second)
    assert found["seeds"] == [0]
    assert found["mcnemar"][0]["only_first"] == 5 and found["mcnemar"][0]["only_second"] == 0
    assert found["folds"]["n"] == 4 and found["folds"]["mean"] == pytest.approx(5 / 56)
    assert found["subjects"]["mean"] == pytest.approx(5 / 56)
    other = compare(second, first)
    assert other["folds"]["mean"] == -found["folds"]["mean"] and other["folds"]["p"] == found["folds"]["p"]


def test_seeds_are_no_further_folds(faces: FaceSet, tiny: Tiny, made_up: MakeUp) -> None:
    """The same folds tested three times tell no more about other folds than once."""
    wrong = set(faces.sources[3:9])
    once, thrice = (
        compare(
            load_run(made_up(f"first-{len(seeds)}", tiny(), seeds)),
            load_run(made_up(f"second-{len(seeds)}", tiny(), seeds, wrong)),
        )["folds"]
        for seeds in ((0,), (0, 1, 2))
    )
    assert thrice["n"] == 4
    assert (thrice["mean"], thrice["t"], thrice["p"]) == pytest.approx((once["mean"], once["t"], once["p"]))


def test_the_order_of_runs_does_not_count(faces: FaceSet, tiny: Tiny, made_up: MakeUp) -> None:
    few = load_run(made_up("few", tiny()))
    for entry in few.report["per_fold"]:
        entry["n_train"] //= 4
    all_of_them = load_run(made_up("all", tiny(), (0,), set(faces.sources[3:9])))
    found, other = compare(few, all_of_them)["folds"], compare(all_of_them, few)["folds"]
    assert found["p"] == other["p"]
    for entry in all_of_them.report["per_fold"]:
        entry["n_train"] //= 4
    assert compare(few, all_of_them)["folds"]["p"] == found["p"]  # the larger share counted before, too


def test_where_the_pictures_lie_does_not_matter(tiny: Tiny, made_up: MakeUp) -> None:
    run = load_run(made_up("run", tiny()))
    here, there = (replace(run, config=replace(run.config, data=f"ck48:{place}")) for place in "ab")
    assert comparable(here, there)


def test_other_folds_or_seeds_are_not_paired(tiny: Tiny, made_up: MakeUp) -> None:
    first = load_run(made_up("first", tiny()))
    folds = load_run(made_up("folds", tiny(folds=3)))
    seeds = load_run(made_up("seeds", tiny(), (4,)))
    for name, other in (("a", {"data_options": {"seed": 3}}), ("b", {"data": f"{TINY_DATA},seed=3"})):
        drawn = load_run(made_up(name, tiny(**other)))  # other faces of the same names
        assert not comparable(first, drawn) and comparable(drawn, drawn)
    assert not comparable(first, folds) and not comparable(first, seeds)
    with pytest.raises(ValueError, match="were not tested on the same images in the same folds"):
        compare(first, folds)
    with pytest.raises(ValueError, match="share no seed"):
        compare(first, seeds)
