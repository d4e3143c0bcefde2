from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.evaluation.quality import Judge
from fer_mtl.files import alone
from fer_mtl.training import checkpoints
from fer_mtl.training.balance import BalanceOptions, Source, balance, open_source, wanted_counts
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.run import train_run
from fer_mtl.training.seen import seen_by_run
from fer_mtl.training.synthetic import load_synthetic, read_manifest

Tiny = Callable[..., TrainConfig]
ANYONE = {"identity": -1.0}


class Dice(Judge):
    """Sees the expressions in turn, whatever is shown: the tiny networks here have learnt none."""

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 0.9 * one_hot(torch.arange(len(images)) % 7, 7).float(), images.flatten(1)


def open_with_dice(run: Path, faces: FaceSet) -> Source:
    source = open_source(run, None, faces.classes)
    assert source.judge.name == f"{run} itself"
    return replace(source, judge=Dice("dice", source.model))


@pytest.fixture(scope="module")
def uneven(faces: FaceSet) -> FaceSet:
    """Fear and contempt are shown by two subjects only."""
    rare = {faces.classes.index(name) for name in ("fear", "contempt")}
    kept = [i for i, s in enumerate(faces.subjects) if int(faces.labels[i]) not in rare or s < "P0002"]
    return faces.subset(kept)


def test_quotas() -> None:
    counts = {"a": 5, "b": 2, "c": 0}
    assert wanted_counts(counts, "largest") == {"a": 0, "b": 3, "c": 5}
    assert wanted_counts(counts, 2) == {"a": 0, "b": 0, "c": 2}
    assert wanted_counts(counts, 4) == {"a": 0, "b": 1, "c": 3}
    assert wanted_counts(counts, 14) == {"a": 2, "b": 5, "c": 7}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quota": 0}, "quota must be largest or a number of faces of 1 or more, got 0"),
        ({"quota": "all"}, "quota must be largest or"),
        ({"confidence": 1.5}, "confidence must be in"),
        ({"attempts": 0}, "attempts must be 1 or more"),
        ({"seed": -1}, r"seed must be between 0 and 2\*\*63 - 1, got -1"),
    ],
)
def test_bad_options_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalanceOptions(**values)


def test_the_classes_become_even_with_faces_of_training_subjects_only(
    trained_run: Path, uneven: FaceSet, tmp_path: Path
) -> None:
    source = open_with_dice(trained_run, uneven)
    summary = balance(source, uneven, tmp_path, BalanceOptions(**ANYONE, attempts=50))
    split = checkpoints.load_model(trained_run).origin["split"]
    records = read_manifest(tmp_path)
    assert {record["subject"] for record in records} <= set(split["train"])
    for record in records:
        assert record["source_expression"] != record["expression"]
        assert (tmp_path / record["file"]).is_file()
        assert record["run"] == str(trained_run) and record["fold"] == 0
        assert record["seen"] == split["train"]
    made = {name: tally["kept"] for name, tally in summary["synthetic"].items()}
    train = uneven.subset([i for i, s in enumerate(uneven.subjects) if s in split["train"]])
    assert len({train.class_counts()[name] + made[name] for name in made}) == 1
    assert len(records) == sum(made.values()) > 0
    assert load_synthetic(tmp_path, train).class_counts() == made


def test_gates_refuse_and_the_shortfall_is_said(
    trained_run: Path, uneven: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_with_dice(trained_run, uneven)
    strict = BalanceOptions(confidence=0.95, identity=0.0, attempts=2)
    summary = balance(source, uneven, tmp_path, strict, console=Console())
    tally = summary["synthetic"]["fear"]
    assert tally["kept"] == 0 and tally["unread"] == tally["drawn"] >= 2 * tally["wanted"] > 0
    assert "fear did not reach the quota" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="already holds a manifest"):
        balance(source, uneven, tmp_path, strict)
    (tmp_path / "manifest.jsonl").unlink()
    picture = tmp_path / "faces" / "mine.png"
    picture.write_bytes(b"of the user")
    with pytest.raises(FileExistsError, match=r"faces holds pictures, which would be removed"):
        balance(source, uneven, tmp_path, strict)
    assert picture.exists()
    strange = BalanceOptions(identity=1.0, attempts=2)
    summary = balance(source, uneven, tmp_path, strange, overwrite=True)
    assert sum(tally["kept"] for tally in summary["synthetic"].values()) == 0
    assert sum(tally["strange"] for tally in summary["synthetic"].values()) > 0


def test_that_an_even_set_needs_none_is_said(
    trained_run: Path, faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = balance(
        open_with_dice(trained_run, faces), faces, tmp_path, BalanceOptions(), console=Console()
    )
    assert not any(tally["wanted"] for tally in summary["synthetic"].values())
    assert "even already, so quota largest wants no face; --quota N" in capsys.readouterr().out


def test_the_margin_stays_the_sources_own(trained_run: Path, faces: FaceSet, tmp_path: Path) -> None:
    source = open_with_dice(trained_run, faces)
    balance(source, faces, tmp_path, BalanceOptions(quota=7, **ANYONE))
    record = json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])
    mine = load_synthetic(tmp_path, faces).images[0]
    real = faces.images[faces.sources.index(record["source"])]
    different = [(mine != view).any(0).sum() for view in (real, real.flip(2))]
    assert min(int(count) for count in different) <= 32 * 32 < 37 * 37


def test_a_run_trains_on_the_mixture(trained_run: Path, faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    balance(open_with_dice(trained_run, faces), faces, tmp_path / "made", BalanceOptions(quota=20, **ANYONE))
    config = tiny(epochs=1, init=str(trained_run), synthetic=str(tmp_path / "made"), mix=0.5)
    seen: list[torch.Tensor] = []

    def watch(trainer: object) -> None:
        seen.append(trainer.position.order)  # type: ignore[attr-defined]

    report = train_run(config, tmp_path / "run", faces=faces, on_step=watch)
    order = seen[0]
    assert len(order) == 84 and int((order < 42).sum()) == 42 == len(set(order[order < 42].tolist()))
    assert report["method"].startswith("FERSNet*")
    other = tiny(epochs=1, fold=1, synthetic=str(tmp_path / "made"))
    with pytest.raises(ValueError, match=f"drawn by {trained_run}.* was trained on 2 of the tested subjects"):
        train_run(other, tmp_path / "leak", faces=faces)
    drawn_by = checkpoints.load_model(trained_run).origin["split"]["train"]
    few = tiny(epochs=1, synthetic=str(tmp_path / "made"))
    assert seen_by_run(few, {"train": drawn_by[:1]}) == {"procedural": drawn_by}


def test_only_a_run_that_can_draw_is_taken(
    trained_run: Path, tiny: Tiny, faces: FaceSet, tmp_path: Path
) -> None:
    checkpoints.load_model(trained_run).model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="must be a run folder"):
        open_source(tmp_path / "bare", None, faces.classes)
    config = tiny(epochs=1, model={"sharing": "none", "synthesis": False})
    train_run(config, tmp_path / "baseline", faces=faces)
    with pytest.raises(ValueError, match="has no synthesis branch"):
        open_source(tmp_path / "baseline", None, faces.classes)


def test_a_run_of_other_expressions_draws_nothing(trained_run: Path, faces: FaceSet) -> None:
    """Its faces had the names of those that the data shows now."""
    with pytest.raises(
        ValueError, match=r"was trained on anger, .*, not contempt, .*, neutral: the data has"
    ):
        open_source(trained_run, None, (*faces.classes[1:], "neutral"))


def test_two_at_once_are_refused(trained_run: Path, uneven: FaceSet, tmp_path: Path) -> None:
    """The one that ended last took the place of the other's faces without a word."""
    pytest.importorskip("fcntl")
    source = open_with_dice(trained_run, uneven)
    with alone(tmp_path), pytest.raises(BlockingIOError, match="another process is at work in"):
        balance(source, uneven, tmp_path, BalanceOptions(**ANYONE))
    assert list(tmp_path.iterdir()) == []
