"""The sweep over shapes: its cases, what counts as lost, and that it goes on where it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sweep
from benchmarks.cases import Case, Shape


def row(ratio: str, milliseconds: str = "0.2") -> sweep.Row:
    return {name: "x" for name in sweep.FIELDS} | {"to_eager": ratio, "p20": "1.06", "eager_ms": milliseconds}


def test_all_sizes_are_there_up_to_the_limits() -> None:
    found = list(sweep.cases())
    shapes = {case.shape for case in found}
    assert {shape.side for shape in shapes} == set(sweep.SIDES)
    assert {shape.channels for shape in shapes} == set(sweep.CHANNELS)
    assert max(shape.elements for shape in shapes) <= sweep.MOST_ELEMENTS
    assert {case.mode for case in found} == {"forward", "full"}
    with pytest.raises(ValueError, match="adain"):
        next(sweep.cases(["adain"]))


def test_what_is_lost_is_counted() -> None:
    rows = [row("0.5"), row("1.06"), row("1.4"), row("1.05")]
    assert sweep.lost(rows) == rows[1:3]
    large = ("4", "2 (50 %)", "2", "1", "1.40", "1.06")
    assert sweep.summary([*rows, row("1.1", "0.05")]).rows == [
        ("eager's time below 0.1 ms", "1", "1 (100 %)", "1", "0", "1.10", "1.10"),
        ("0.1 ms and more", *large),
        ("x, x, x", *large),
    ]


def test_it_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case("group_norm_act", "forward", Shape(1, 4, 3), "float32", "contiguous", ("eager", "auto"))
    single = Case("batch_norm_act", "forward", Shape(1, 4, 1), "float32", "contiguous", ("eager", "auto"))
    monkeypatch.setattr(sweep, "cases", lambda ops: iter([case, single]))  # torch refuses the second
    monkeypatch.setattr(sweep, "BRIEF", sweep.Effort(0.01, 2, 2))
    monkeypatch.setattr(sweep, "LONG", sweep.Effort(0.01, 2, 2))
    monkeypatch.setattr(sweep, "SMALL_MS", float("inf"))  # however busy the machine is
    arguments = ["--results", str(tmp_path)]
    assert sweep.main(arguments) == 0
    (path,) = tmp_path.glob("*/sweep.csv")
    before = sweep.load(path)
    assert [found["shape"] for found in before] == ["b1-c4-s3"]
    assert sweep.main(arguments) == 0
    assert sweep.load(path) == before
    assert "eager's time below inf ms | 1 |" in capsys.readouterr().out


def test_what_was_measured_survives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (
        Case("group_norm_act", mode, Shape(1, 4, 3), "float32", "contiguous", ("eager", "auto"))
        for mode in ("forward", "full")
    )

    def measured(case: Case, problem: object) -> sweep.Row:
        if case is second:
            raise KeyboardInterrupt
        return row("0.9")

    monkeypatch.setattr(sweep, "cases", lambda ops: iter([first, second]))
    monkeypatch.setattr(sweep, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        sweep.main(["--results", str(tmp_path)])
    (path,) = tmp_path.glob("*/sweep.csv")
    assert [found["to_eager"] for found in sweep.load(path)] == ["0.9"]


def test_measuring_again_leaves_other_ops_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, share = (
        Case(op, "full", Shape(1, 4, 3), "float32", "contiguous", ("eager", "auto"))
        for op in ("group_norm_act", "selective_share")
    )
    ratio = "1.2"
    monkeypatch.setattr(sweep, "cases", lambda ops: iter([case for case in (norm, share) if case.op in ops]))
    monkeypatch.setattr(
        sweep,
        "measure",
        lambda case, _: row(ratio) | dict(zip(sweep.CASE_FIELDS, sweep.key(case), strict=True)),
    )
    arguments = ["--results", str(tmp_path)]
    sweep.main(arguments)
    ratio = "0.8"
    sweep.main([*arguments, "--again", "lost", "--ops", "selective_share"])
    (path,) = tmp_path.glob("*/sweep.csv")
    assert {found["op"]: found["to_eager"] for found in sweep.load(path)} == {
        "group_norm_act": "1.2",
        "selective_share": "0.8",
    }
