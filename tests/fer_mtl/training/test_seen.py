from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.training import checkpoints
from fer_mtl.training.seen import check_unseen, people_of, seen_by, union


def test_a_network_that_knows_tested_subjects_is_refused(trained_run: Path) -> None:
    origin = checkpoints.load_model(trained_run).origin
    known, unknown = origin["split"]["train"][0], origin["split"]["test"]
    older = {key: value for key, value in origin.items() if key != "seen"}
    for told in (origin, older):
        check_unseen("other", told, unknown, "procedural")
        check_unseen("other", told, [known], "ck48:elsewhere")  # the same id is another person there
        with pytest.raises(ValueError, match=f"must not know the tested .* other.* 1 of them: {known}"):
            check_unseen("other", told, [known, *unknown], "procedural:seed=3")


@pytest.mark.parametrize(
    "names", [("ck48", "ckplus", "ckplus48n"), ("affectnet7", "affectnet8"), ("fer2013", "ferplus")]
)
def test_sets_of_the_same_people_are_one(names: tuple[str, ...]) -> None:
    assert len({people_of(f"{name}:some/folder") for name in names}) == 1
    origin = {"config": {"data": f"{names[0]}:here"}, "split": {"train": ["S010"], "validation": ["S011"]}}
    for name in names:
        with pytest.raises(ValueError, match="trained on 2 of them: S010, S011"):
            check_unseen("other", origin, ["S010", "S011", "S012"], f"{name}:there")
    check_unseen("other", origin, ["S010"], "jaffe:there")


def test_a_set_nobody_registered_shows_its_own_people() -> None:
    assert people_of("mine:folder") == "mine"


def test_everybody_in_any_part() -> None:
    assert union({"a": ["y", "x"]}, {"a": ["z"], "b": ["x"]}) == {"a": ["x", "y", "z"], "b": ["x"]}
    assert union() == {}


def test_a_bare_model_is_not_refused_but_named(caplog: pytest.LogCaptureFixture) -> None:
    assert seen_by({}) == {}
    check_unseen("some/model", {}, [], "ck48:x")
    assert not caplog.text
    check_unseen("some/model", {}, ["S010"], "ck48:x")
    assert "some/model does not say whom it was trained on" in caplog.text
