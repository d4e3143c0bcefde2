from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.training import checkpoints
from fer_mtl.training.config import PARTS, TrainConfig
from fer_mtl.training.run import train_run
from fer_mtl.training.starting import check_start, load_judge, part_of, start_from

Tiny = Callable[..., TrainConfig]


def make_model(**options: object) -> FERSNet:
    return FERSNet(**{"num_expressions": 7, "image_size": 32, "width": 0.125, **options})


def test_every_key_has_a_part_and_every_part_a_key() -> None:
    keys = make_model().state_dict()
    parts = {key: part_of(key) for key in keys}
    assert set().union(*parts.values()) == set(PARTS)
    assert all(part_of(key) == {"decoder", "style"} for key in keys if ".style" in key)
    assert part_of("levels.1.share.pair.x_from_y.W.weight") == {"sharing"}
    assert part_of("levels.0.fes.conv1.weight") == {"fes"}


@pytest.mark.parametrize("restart", [("decoder", "style"), ("style",), ("classifier", "sharing"), ()])
def test_parts_that_restart_keep_their_fresh_weights(trained_run: Path, restart: tuple[str, ...]) -> None:
    model = make_model(blend=True)  # as the preset of the trained one has it
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    trained = checkpoints.load_model(trained_run).model.state_dict()
    start_from(model, str(trained_run), restart)
    for name, value in model.state_dict().items():
        wanted = fresh if part_of(name) & set(restart) else trained
        assert torch.equal(value, wanted[name]), name


def test_another_number_of_expressions_needs_a_new_classifier(trained_run: Path) -> None:
    model = make_model(num_expressions=6, blend=True)
    with pytest.raises(ValueError, match=r"does not fit FERSNet: of another shape: classifier\.linear"):
        start_from(model, str(trained_run), ("decoder", "style"))
    start_from(model, str(trained_run), ("classifier", "decoder", "style"))


def test_other_expressions_need_a_new_classifier_and_style(trained_run: Path, tiny: Tiny) -> None:
    known = checkpoints.load_model(trained_run).classes
    other = (*known[1:], "neutral")

    def check(classes: tuple[str, ...], restart: tuple[str, ...], **options: object) -> None:
        check_start(tiny(init=str(trained_run), restart=restart, **options), [], classes)

    check_start(tiny(), [], other)  # nothing to start from
    check(known, ())
    check(other, ("classifier", "style"))
    check(other, ("classifier", "decoder"))
    with pytest.raises(
        ValueError, match=r"restart must have classifier as well, got decoder, style: .* knows anger"
    ):
        check(other, ("decoder", "style"))
    with pytest.raises(ValueError, match=r"restart must have classifier and style as well, got nothing"):
        check(other, ())
    alone = {"model": {"synthesis": False, "sharing": "none"}}
    check(other, ("classifier",), **alone)
    with pytest.raises(ValueError, match=r"restart must have classifier as well, got stem"):
        check(other, ("stem",), **alone)


def test_a_judge_reads_the_same_expressions_at_the_same_size(
    trained_run: Path, tiny: Tiny, faces: FaceSet
) -> None:
    config = tiny()
    assert load_judge(None, [], config, faces.classes) is None
    judge = load_judge(str(trained_run), [], config, faces.classes)
    assert judge is not None and judge.name == str(trained_run)
    with pytest.raises(ValueError, match=r"judge must read anger, fear; .* reads anger, contempt"):
        load_judge(str(trained_run), [], config, ("anger", "fear"))
    with pytest.raises(ValueError, match=r"judge must have model.image_size 64 as the network"):
        load_judge(str(trained_run), [], tiny(model={"image_size": 64}), faces.classes)


def test_fine_tuning_starts_from_the_other_run(
    trained_run: Path, faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny(epochs=1, init=str(trained_run), judge=str(trained_run), optimiser={"learning_rate": 1e-12})
    report = train_run(config, tmp_path / "fine", faces=faces)
    assert report["synthesis"]["judge"] == str(trained_run)
    tuned = checkpoints.load_model(tmp_path / "fine").model.state_dict()
    trained = checkpoints.load_model(trained_run).model.state_dict()
    torch.testing.assert_close(tuned["stem.conv.weight"], trained["stem.conv.weight"])
    assert not torch.equal(tuned["decoder.to_image.weight"], trained["decoder.to_image.weight"])
    with pytest.raises(ValueError, match="must not know the tested subjects"):
        train_run(tiny(fold=1, init=str(trained_run)), tmp_path / "leak", faces=faces)
    assert not (tmp_path / "leak").exists()


def test_what_the_start_was_started_from_counts(
    trained_run: Path, faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    """A network of few training subjects, started from one of many, has seen them all."""
    few = tiny(epochs=1, init=str(trained_run), train_subjects=4, batch_size=14)
    train_run(few, tmp_path / "few", faces=faces)
    origin = checkpoints.load_model(tmp_path / "few").origin
    many = checkpoints.load_model(trained_run).origin["split"]["train"]
    assert len(origin["split"]["train"]) == 4 and origin["seen"] == {"procedural": many}
    left = [subject for subject in many if subject not in origin["split"]["train"]]
    with pytest.raises(ValueError, match=f"was trained on {len(left)} of them"):
        check_start(tiny(init=str(tmp_path / "few")), left, faces.classes)
