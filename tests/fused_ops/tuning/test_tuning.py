"""The launch tables: which row a call gets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fused_ops import tuning
from fused_ops.selective_share.triton_plan import LARGEST_TILE
from fused_ops.triton_support import CARDS
from fused_ops.tuning import notes, search


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    default = [{"when": {"channels_most": 64}, "launch": {"tile": 1}}, {"when": {}, "launch": {"tile": 2}}]
    own = [
        {"when": {"channels_least": 512}, "launch": {"tile": 4}},
        {"when": {"channels_most": 128, "layout": "last"}, "launch": {"tile": 3}},
    ]
    (tmp_path / "default.json").write_text(json.dumps({"family": default}))
    (tmp_path / "sm_90.json").write_text(json.dumps({"family": own}))
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    for function in (tuning.table, tuning._choose):
        function.cache_clear()
    yield tmp_path
    for function in (tuning.table, tuning._choose):
        function.cache_clear()


@pytest.mark.parametrize(
    ("architecture", "channels", "layout", "tile"),
    [
        ("sm_80", 64, "last", 1),
        ("sm_80", 65, "last", 2),
        ("sm_90", 65, "last", 3),
        ("sm_90", 65, "planes", 2),
        ("sm_90", 512, "planes", 4),
        ("sm_90", 511, "planes", 2),
        ("sm_100", 65, "last", 3),  # a relative of sm_90
    ],
)
def test_the_first_row_that_fits_is_taken(
    tables: Path, architecture: str, channels: int, layout: str, tile: int
) -> None:
    assert tuning.choose(architecture, "family", channels=channels, layout=layout) == {"tile": tile}


def test_a_missing_row_is_named(tables: Path) -> None:
    with pytest.raises(LookupError, match=r"no row .* fits other with .*3.* on sm_80"):
        tuning.choose("sm_80", "other", channels=3)


def test_the_shipped_tables_are_well_formed() -> None:
    for path in tuning.FOLDER.glob("*.json"):
        for rows in json.loads(path.read_text()).values():
            for row in rows:
                assert set(row) <= {"when", "launch", "note"} and row["launch"]
            if path.stem == tuning.DEFAULTS:
                assert rows[-1]["when"] == {}, "the last default serves whatever no other row does"


def test_no_tile_has_more_pixels_than_offsets_reach() -> None:
    families = [family for name in ("default", *CARDS) for family in tuning.table(name).items()]
    pixels = [
        row["launch"]["pixels"]
        for family, rows in families
        if family.startswith("selective_share") and not family.endswith("backend")
        for row in rows
    ]
    assert pixels and max(pixels) <= LARGEST_TILE and max(search.STEPS["pixels"]) <= LARGEST_TILE


def test_what_is_remembered_of_the_tables_is_asked_anew_where_it_may_differ() -> None:
    calls = []

    @tuning.remembered
    def launch_of(channels: int) -> Mapping[str, Any]:
        calls.append(channels)
        return tuning.choose("sm_90", "family", channels=channels)

    def table(tile: int) -> tuning.Table:
        return {"family": [{"when": {"channels_most": 4}, "launch": {"tile": tile}}]}

    with tuning.table_given("sm_90", table(1)):
        assert launch_of(3) == launch_of(3) == {"tile": 1}
        assert launch_of(4) == {"tile": 1} and calls == [3, 4]
        with tuning.on_trial("family", {"tile": 5}):
            assert launch_of(3) == {"tile": 5}
        with tuning.asked() as rows:
            launch_of(3)
        assert [facts for _, facts, _ in rows] == [{"channels": 3}]
        with notes.listening() as heard:
            launch_of(3)
        assert heard == ["family: row 1 of sm_90.json"]
    with tuning.table_given("sm_90", table(2)):
        assert launch_of(3) == {"tile": 2}
    with pytest.raises(LookupError):
        launch_of(3)
