from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.comparison import learning, p_value, protocol, write_comparison
from fer_mtl.evaluation.runs import load_run
from fer_mtl.training.config import TrainConfig

Tiny, MakeUp = Callable[..., TrainConfig], Callable[..., Path]


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_runs_stand_side_by_side(faces: FaceSet, tiny: Tiny, made_up: MakeUp, tmp_path: Path) -> None:
    alone = {"sharing": "none", "synthesis": False}
    runs = [
        load_run(made_up("fersnet", tiny(), (0, 1), {faces.sources[3]})),
        load_run(made_up("baseline", tiny(model=alone), (0, 1), set(faces.sources[3:9]))),
        load_run(made_up("few", tiny(train_subjects=3), (0, 1), set(faces.sources[:20]))),
    ]
    write_comparison(runs, tmp_path / "out")
    tables = tmp_path / "out" / "tables"
    rows = read(tables / "results.csv")
    assert [row["method"] for row in rows] == [
        "FERSNet (ConvFLU)",
        "Baseline (FER branch alone)",
        "FERSNet (ConvFLU), 3 training subjects",
    ]
    assert [row["accuracy"] for row in rows] == ["98.2 %", "89.3 %", "64.3 %"]
    assert rows[0]["parameters"] == "100" and rows[0]["folds x seeds"] == "4 x 2"
    paired = read(tables / "paired.csv")
    assert len(paired) == 3 and paired[0]["images only one has right"] == "5 : 0, 5 : 0"
    assert paired[0]["difference in points"] == "+8.93"
    assert len(json.loads((tmp_path / "out" / "paired.json").read_text())) == 3
    learning = read(tables / "learning.csv")
    assert [(row["method"], row["training subjects of a fold"]) for row in learning] == [
        ("FERSNet (ConvFLU)", "3"),
        ("FERSNet (ConvFLU)", "6"),
        ("Baseline (FER branch alone)", "6"),
    ]
    assert len(read(tables / "folds.csv")) == 24
    assert len(read(tables / "synthesis.csv")) == 2 and len(read(tables / "gates-0.csv")) == 2
    redrawn = read(tables / "redrawn-0.csv")
    assert [(row["redrawn from"], row["fear"], row["read in them"]) for row in redrawn] == [
        ("anger", "50.0 %", "66.7 %")
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Where the protocols differ" in page and "97.35 %" in page
    mine = tmp_path / "out" / "tables" / "mine.csv"
    mine.write_text("of the user")
    # A later report in the same folder shows nothing of this one.
    write_comparison(runs[1:2], tmp_path / "out")
    write_comparison(runs[1:2], tmp_path / "new")
    files = {
        name: {path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*.*")}
        for name in ("out", "new")
    }
    assert files["out"] == files["new"] | {"tables/mine.csv"}


def test_what_holds_for_some_runs_is_said_of_those(tiny: Tiny, made_up: MakeUp, tmp_path: Path) -> None:
    runs = [
        load_run(made_up("hard", tiny(model={"sharing": "hard"}))),
        load_run(made_up("it", tiny(mixup=0.3, synthesis_every=2))),
    ]
    (part,) = protocol(runs)
    assert "4 folds, not 10." in part.lines
    (recipe,) = [line for line in part.lines if "mixup" in line]
    assert recipe.startswith("FERSNet (ConvFLU): Trained otherwise")
    assert not any("the paper's figure is for" in line for line in part.lines)  # of drawn faces it has none


def test_a_learning_curve_is_of_one_data_set(tiny: Tiny, made_up: MakeUp) -> None:
    runs = [load_run(made_up("few", tiny(train_subjects=3))), load_run(made_up("all", tiny()))]
    other = replace(runs[1], config=replace(runs[1].config, data="ck48:somewhere"))
    (part,) = learning([*runs, other])
    assert [row[0] for row in part.table.rows] == [
        *["FERSNet (ConvFLU) on procedural"] * 2,
        "FERSNet (ConvFLU) on ck48",
    ]


def test_runs_of_one_method_are_told_apart_and_strangers_not_paired(
    tiny: Tiny, made_up: MakeUp, tmp_path: Path
) -> None:
    runs = [load_run(made_up("one", tiny())), load_run(made_up("two", tiny(folds=3)))]
    write_comparison(runs, tmp_path / "out")
    names = [row["method"] for row in read(tmp_path / "out" / "tables" / "results.csv")]
    assert names == ["FERSNet (ConvFLU) [one]", "FERSNet (ConvFLU) [two]"]
    assert not (tmp_path / "out" / "tables" / "paired.csv").exists()
    why = (
        "1 pair without a test: {0} [one] and {0} [two] were not tested on the same images in the same folds"
    )
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"## Paired tests\n\n- {why.format('FERSNet (ConvFLU)')}\n" in text


def test_runs_in_folders_of_one_name_are_told_apart(tiny: Tiny, made_up: MakeUp, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    first, second = load_run(made_up("x/run", tiny())), load_run(made_up("y/run", tiny()))
    runs = [first, second, second]
    write_comparison(runs, tmp_path / "out")
    names = [f"FERSNet (ConvFLU) [{name}]" for name in ("x/run", "y/run", "y/run")]
    names[2] += " (2)"
    assert [row["method"] for row in read(tmp_path / "out" / "tables" / "results.csv")] == names
    pairs = [(row["first"], row["second"]) for row in read(tmp_path / "out" / "tables" / "paired.csv")]
    assert pairs == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    tests = json.loads((tmp_path / "out" / "paired.json").read_text())
    assert [(test["first"], test["second"]) for test in tests] == pairs
    # Neither table nor picture of one hides that of another.
    assert list(read(tmp_path / "out" / "tables" / "recall.csv")[0])[1:] == names
    assert len(list((tmp_path / "out" / "pictures").glob("confusion*.png"))) == 3


def test_small_probabilities_are_not_zero() -> None:
    assert [p_value(p) for p in (None, 0.0001, 0.04567)] == ["none", "< 0.001", "0.046"]
