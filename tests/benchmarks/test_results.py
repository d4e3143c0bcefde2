from __future__ import annotations

import csv
import json

import pytest

from benchmarks.results import Store, load_all

HERE = {"processor": "one", "commit": "a"}
CASE = {"op": "adain", "mode": "full", "shape": "b2-c8-s5", "dtype": "float32", "layout": "contiguous"}


def record(provider: str, median: float, **changes) -> dict:
    return {**CASE, "provider": provider, "median_ms": median, **changes}


def test_figures_are_there_after_each_case(tmp_path) -> None:
    path = tmp_path / "machine" / "norm_act.json"
    Store(path).put([record("cpu", 1.0), record("eager", 2.0)], HERE)
    again = Store(path)
    assert [r["median_ms"] for r in again.records] == [1.0, 2.0]
    again.put([record("cpu", 3.0, mode="forward")], HERE)
    assert len(Store(path).records) == 3
    assert load_all(tmp_path)["machine"]["norm_act"].records == Store(path).records
    assert [p.name for p in path.parent.glob("*.tmp")] == []


def test_a_new_figure_replaces_the_old_one_and_its_environment(tmp_path) -> None:
    store = Store(tmp_path / "norm_act.json")
    store.put([record("cpu", 1.0)], HERE)
    store.put([record("cpu", 5.0)], {**HERE, "commit": "b"})
    assert [r["median_ms"] for r in store.records] == [5.0]
    assert [e["commit"] for e in store.environments.values()] == ["b"]


def test_only_figures_of_the_same_environment_are_found(tmp_path) -> None:
    store = Store(tmp_path / "norm_act.json")
    store.put([record("cpu", 1.0)], HERE)
    assert len(store.find(CASE, HERE)) == 1
    assert store.find(CASE, {**HERE, "commit": "b"}) == []
    assert store.find({**CASE, "mode": "forward"}, HERE) == []


def test_the_csv_has_the_same_figures(tmp_path) -> None:
    store = Store(tmp_path / "norm_act.json")
    store.put([record("cpu", 1.5), {**CASE, "provider": "cuda", "skipped": "no card"}], HERE)
    rows = list(csv.DictReader(store.path.with_suffix(".csv").open()))
    assert [(row["provider"], row["median_ms"], row["skipped"]) for row in rows] == [
        ("cpu", "1.5", ""),
        ("cuda", "", "no card"),
    ]


@pytest.mark.parametrize("content", ["{", json.dumps([1]), json.dumps({"records": []})])
def test_another_file_is_not_overwritten(tmp_path, content: str) -> None:
    path = tmp_path / "norm_act.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="does not hold benchmark results"):
        Store(path)
    assert path.read_text() == content
