from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.training import checkpoints, losses, phases
from fer_mtl.training import trainer as trainer_module
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.interrupt import Interrupted, StepInterrupt
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.split import make_split
from fer_mtl.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]


def make_trainer(config: TrainConfig, faces: FaceSet, folder: Path, **options: Any) -> Trainer:
    split = make_split(config, faces)
    run = RunFolder(folder)
    run.root.mkdir(parents=True, exist_ok=True)
    validation = faces.subset(split.validation) if len(split.validation) else None
    return Trainer(config, faces.subset(split.train), validation, run, **options)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bitwise equality of nested states, timings aside."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            if key not in ("seconds", "epoch_seconds", "images_per_second"):
                assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("known", [True, False])
def test_targets_are_of_the_same_person_or_of_anybody(
    known: bool, faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    some = replace(faces, known_subjects=known)
    if not known:
        some = replace(some, subjects=list(some.sources))
    trainer = make_trainer(tiny(loss={"identity": 0.0}), some, tmp_path)
    assert ("identity" in trainer.networks.modules()) is known
    pairs = trainer.pairs.sample(torch.arange(len(trainer.train_set)))
    assert bool((pairs.target_label != trainer.train_set.labels).all())
    person = dict(zip(faces.sources, faces.subjects, strict=True))
    drawn = [[person[trainer.train_set.sources[i]] for i in which.tolist()] for which in pairs[:2]]
    assert (drawn[0] == drawn[1]) is known


def test_synthesised_faces_are_read_as_training_faces_are_seen(
    faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny(augmentation="geometric"), faces, tmp_path)
    images, state = torch.rand(2, 3, 32, 32), trainer.random.get_state()
    seen = trainer.phases[True][-1].loss.keywords["look"](images)
    assert not torch.equal(trainer.random.get_state(), state)  # so a resumed run sees the same
    trainer.random.set_state(state)
    assert torch.equal(seen, trainer.augment.again(images, generator=trainer.random))
    assert not torch.equal(seen, images)


@pytest.mark.parametrize("synthesise", [True, False])
def test_labels_are_smoothed_as_asked_for(
    synthesise: bool, faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny(label_smoothing=0.3), faces, tmp_path)
    step = phases.take_step(trainer.make_batch(torch.arange(14)), trainer.networks, synthesise)
    found = trainer.phases[synthesise][-1].loss(step)["classification"]
    torch.testing.assert_close(found, losses.classification(step.logits, step.batch.source_label, None, 0.3))


def test_faces_are_mixed_where_recognition_is_trained_alone(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three steps; of a mixture there is no true picture to hold its redrawn face against."""
    mixed = []

    def watch(batch: phases.Batch, *arguments: Any) -> phases.Step:
        mixed.append(batch.mixed_label is not None)
        return phases.take_step(batch, *arguments)

    monkeypatch.setattr(trainer_module, "take_step", watch)
    make_trainer(tiny(epochs=1, synthesis_every=2, mixup=0.4), faces, tmp_path / "both").fit()
    alone = {"synthesis": False, "sharing": "none"}
    make_trainer(tiny(epochs=1, model=alone, mixup=0.4), faces, tmp_path / "alone").fit()
    make_trainer(tiny(epochs=1, model=alone), faces, tmp_path / "none").fit()
    assert mixed == [False, True, False, *[True] * 3, *[False] * 3]


class StopAt:
    """Interrupts a run after a number of steps."""

    def __init__(self, step: int, how: Callable[[], object]) -> None:
        self.step, self.how = step, how

    def __call__(self, trainer: Trainer) -> None:
        self.step -= 1
        if self.step == 0:
            self.how()


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def raise_interrupt() -> None:
    raise KeyboardInterrupt


# 42 training images in batches of 14: three steps an epoch, so step 3 stops between two epochs.
@pytest.mark.parametrize(("stop", "how"), [(2, ctrl_c), (3, ctrl_c), (4, raise_interrupt)])
@pytest.mark.parametrize("selection", ["last", "validation"])
def test_a_resumed_run_ends_with_the_same_bits(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, stop: int, how: Callable[[], object], selection: str
) -> None:
    config = tiny(epochs=3, selection=selection, validation_fraction=0.3)
    straight = make_trainer(config, faces, tmp_path / "straight")
    straight.fit()

    stopped = make_trainer(config, faces, tmp_path / "stopped", on_step=StopAt(stop, how))
    with pytest.raises(Interrupted, match=r"continue with: fer-mtl train --resume .*stopped"):
        stopped.fit()
    torch.manual_seed(999)  # nothing may depend on the process the run goes on in
    resumed = make_trainer(config, faces, tmp_path / "stopped")
    resumed.resume()
    assert (resumed.position.epoch, resumed.position.step) != (0, 0)
    resumed.fit()

    assert_same(straight.state(), resumed.state())
    for name in ("last.pt", "best.pt"):
        assert_same(
            checkpoints.load(tmp_path / "straight" / name), checkpoints.load(tmp_path / "stopped" / name)
        )
    assert_same(RunFolder(tmp_path / "straight").read_stats(), RunFolder(tmp_path / "stopped").read_stats())


@pytest.mark.parametrize(
    "more",
    [
        {"average": 0.9, "mixup": 0.3, "synthesis_every": 2, "loss": {"expression": 0.5}},
        {"weighting": "uncertainty", "optimiser": {"schedule": "cosine", "warmup": 0.3}},
        {"precision": "bfloat16", "average": 0.9, "loss": {"expression": 0.5}},
    ],
)
def test_every_choice_of_the_recipe_resumes_alike(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, more: dict[str, Any]
) -> None:
    config = tiny(epochs=2, **more)
    extra = faces.subset([3, 10, 17])
    straight = make_trainer(config, faces, tmp_path / "straight", synthetic=extra)
    straight.fit()
    stopped = make_trainer(
        config, faces, tmp_path / "stopped", synthetic=extra, on_step=StopAt(4, raise_interrupt)
    )
    with pytest.raises(Interrupted):
        stopped.fit()
    resumed = make_trainer(config, faces, tmp_path / "stopped", synthetic=extra)
    resumed.resume()
    resumed.fit()
    assert_same(straight.state(), resumed.state())
    if config.average:
        kept = checkpoints.load_model(tmp_path / "straight").model.state_dict()
        raw = straight.networks.generator.state_dict()
        assert not torch.equal(kept["classifier.linear.weight"], raw["classifier.linear.weight"])
        assert_same(dict(kept), dict(straight.networks.averaged.state_dict()))
    else:
        assert straight.networks.weighting.log_variance.abs().min() > 0


def test_synthetic_faces_are_sources_and_never_targets(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    extra = faces.subset([0, 1, 2])
    extra.images.fill_(255)
    trainer = make_trainer(tiny(fold=None, augmentation="none"), faces, tmp_path, synthetic=extra)
    everything = torch.arange(len(faces) + 3)
    for _ in range(20):
        batch = trainer.make_batch(everything)
        assert batch.source[-3:].min() == 1.0
        assert (batch.target.flatten(1).amin(1) < 1).all()


def test_the_training_time_has_that_of_the_identity_encoder(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else FERSNet would look cheaper beside recognition alone than it is."""
    began = iter([100.0, 130.0])
    trainer = make_trainer(tiny(epochs=1), faces, tmp_path)
    monkeypatch.setattr("fer_mtl.training.trainer.train_identity", lambda *_: 1.0)
    with StepInterrupt() as interrupt, monkeypatch.context() as clock:
        clock.setattr("fer_mtl.training.trainer.time.perf_counter", lambda: next(began))
        trainer.prepare(interrupt)
    trainer.fit()
    (line,) = trainer.run.read_stats()
    assert line["seconds"] == pytest.approx(30 + 42 / line["images_per_second"])


def test_the_mean_of_a_term_is_over_the_steps_that_have_it(
    faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    """Three steps an epoch, synthesis in the first and the last."""
    seen: list[dict[str, int]] = []

    def watch(trainer: Trainer) -> None:
        seen.append(dict(trainer.position.counts))

    trainer = make_trainer(tiny(epochs=1, synthesis_every=2), faces, tmp_path, on_step=watch)
    trainer.fit()
    assert seen[-1]["classification"] == 42 and seen[-1]["identity"] == seen[-1]["discriminator"] == 28


def test_the_training_accuracy_is_that_of_the_answers_in_training(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every epoch its own."""
    right: list[float] = []

    def watch(*arguments: Any) -> phases.Step:
        step = phases.take_step(*arguments)
        right.append(float((step.logits.argmax(1) == step.batch.source_label).double().mean()))
        return step

    monkeypatch.setattr(trainer_module, "take_step", watch)
    trainer = make_trainer(tiny(model={"synthesis": False, "sharing": "none"}), faces, tmp_path)
    trainer.fit()
    found = [line["train_accuracy"] for line in trainer.run.read_stats()]
    assert found == pytest.approx([sum(right[:3]) / 3, sum(right[3:]) / 3])  # of batches of one size
    assert 0 < found[0] != found[1]


def test_another_seed_ends_with_other_bits(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    ends = []
    for seed in (0, 0, 1):
        trainer = make_trainer(tiny(epochs=1, seed=seed), faces, tmp_path / f"{len(ends)}")
        trainer.fit()
        ends.append(trainer.networks.generator.state_dict()["classifier.linear.weight"])
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_a_killed_run_goes_on_from_its_last_checkpoint(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(epochs=2)
    straight = make_trainer(config, faces, tmp_path / "straight")
    straight.fit()

    def die() -> None:
        raise MemoryError

    killed = make_trainer(config, faces, tmp_path / "killed", on_step=StopAt(5, die))
    with pytest.raises(MemoryError):
        killed.fit()
    killed.run.add_stats({"epoch": 2})  # written just before the end
    resumed = make_trainer(config, faces, tmp_path / "killed")
    resumed.resume()
    resumed.fit()
    assert_same(straight.state(), resumed.state())
    assert_same(straight.run.read_stats(), resumed.run.read_stats())


def test_a_run_killed_between_its_checkpoints_ends_with_the_same_model(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as the second one of the last epoch is written."""
    config = tiny(epochs=1)
    make_trainer(config, faces, tmp_path / "straight").fit()
    original, written = checkpoints.save, []

    def die(content: dict[str, Any], path: Path) -> None:
        written.append(path)
        if len(written) == 3:
            raise MemoryError
        original(content, path)

    with monkeypatch.context() as killing, pytest.raises(MemoryError):
        killing.setattr(checkpoints, "save", die)
        make_trainer(config, faces, tmp_path / "killed").fit()
    resumed = make_trainer(config, faces, tmp_path / "killed")
    resumed.resume()
    resumed.fit()
    for name in ("last.pt", "best.pt"):
        assert_same(
            checkpoints.load(tmp_path / "straight" / name), checkpoints.load(tmp_path / "killed" / name)
        )


def test_weights_that_are_no_numbers_are_not_saved(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    """A gradient may overflow where the loss does not; the next step would show it; an epoch ends first."""

    def spoil() -> None:
        with torch.no_grad():
            trainer.networks.generator.classifier.linear.weight[0, 0] = float("nan")

    trainer = make_trainer(tiny(epochs=2), faces, tmp_path, on_step=StopAt(6, spoil))
    with pytest.raises(RuntimeError, match=r"a weight is not finite.*smaller optimiser.learning_rate"):
        trainer.fit()
    assert checkpoints.load(tmp_path / "last.pt")["epoch"] == 1
    assert checkpoints.load(tmp_path / "best.pt")["epoch"] == 1


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """torch then complains of its archive instead."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.pt"
    checkpoints.save({"epoch": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*last.pt'"):
            checkpoints.save({"model": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.load(path)["epoch"] == 1 and list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path: Path) -> None:
    """torch's message advises to load it as a program."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(bytes(range(255, -1, -1)))
    with pytest.raises(ValueError, match=r"photo\.jpg is not a readable checkpoint: torch has not") as error:
        checkpoints.load(path)
    assert "weights_only" not in str(error.value)


def test_ctrl_c_before_the_first_step_leaves_no_checkpoint(
    faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tiny(), faces, tmp_path)
    monkeypatch.setattr("fer_mtl.training.trainer.train_identity", lambda *_: ctrl_c() or ctrl_c())
    with pytest.raises(Interrupted, match="stopped before the first step; continue with"):
        trainer.fit()
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_an_epoch_is_not_taken_for_a_trained_one(
    faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny(model={"sharing": "none", "synthesis": False})
    with pytest.raises(Interrupted):
        make_trainer(config, faces, tmp_path, on_step=StopAt(1, raise_interrupt)).fit()
    with pytest.raises(ValueError, match=r"holds no trained model.*continue with fer-mtl train --resume"):
        checkpoints.load_model(tmp_path)
    assert checkpoints.load_model(tmp_path / "last.pt").origin["epoch"] == 0


def test_resuming_with_another_configuration_is_refused(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    make_trainer(tiny(epochs=1), faces, tmp_path).fit()
    with pytest.raises(
        ValueError,
        match=r"last.pt was trained with another configuration than .*: epochs was 1, now 2; put that back",
    ):
        make_trainer(tiny(epochs=2), faces, tmp_path).resume()
    with pytest.raises(ValueError, match=r"config.yaml: model.sharing was 'convflu', now 'hard'"):
        make_trainer(tiny(epochs=1, model={"sharing": "hard"}), faces, tmp_path).resume()


def test_resuming_with_more_pictures_of_the_same_people_is_refused(
    faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    """The order that an epoch goes on in would mean others."""
    config = tiny(epochs=1, model={"sharing": "none", "synthesis": False})
    Trainer(config, faces.subset(range(42)), None, RunFolder(tmp_path)).fit()
    with pytest.raises(ValueError, match=r"was trained on 42 images, not 43: the data has changed since"):
        Trainer(config, faces.subset(range(43)), None, RunFolder(tmp_path)).resume()


def test_resuming_with_other_expressions_is_refused(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    """As many of them: every label behind the one that was renamed meant another."""
    config = tiny(epochs=1, model={"sharing": "none", "synthesis": False})
    Trainer(config, faces, None, RunFolder(tmp_path)).fit()
    others = replace(faces, classes=(*faces.classes[1:], "neutral"))
    with pytest.raises(
        ValueError, match=r"was trained on anger, .*, not contempt, .*, neutral: the data has"
    ):
        Trainer(config, others, None, RunFolder(tmp_path)).resume()


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_loss_that_is_not_finite_ends_the_run_with_a_word(
    at_hand: bool, faces: FaceSet, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "is_at_hand", lambda loss: at_hand)

    def spoil() -> None:
        with torch.no_grad():
            trainer.networks.generator.classifier.linear.weight.fill_(float("inf"))

    trainer = make_trainer(tiny(), faces, tmp_path, on_step=StopAt(4, spoil))
    with pytest.raises(
        RuntimeError, match=r"loss is not finite .* in epoch 2, step 2; try a smaller optimiser"
    ):
        trainer.fit()
    saved = checkpoints.load(trainer.run.last)["model"]
    assert all(bool(torch.isfinite(value).all()) for value in saved.values())


def test_every_epoch_has_its_line(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    trainer = make_trainer(tiny(epochs=5), faces, tmp_path)
    trainer.fit()
    lines = [json.loads(line) for line in trainer.run.stats.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert set(lines[0]["losses"]) == {
        "discriminator",
        "classification",
        "identity",
        "adversarial",
        "cycle",
        "generator",
    }
    assert all(math.isfinite(value) for line in lines for value in line["losses"].values())
    # Milestones at 0.3 and 0.8 of five epochs: after the second and the fourth.
    rate = trainer.config.optimiser.learning_rate
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [rate, rate, rate / 10, rate / 10, rate / 100]
    )


def test_the_best_epoch_on_the_validation_subjects_is_kept(
    faces: FaceSet, tiny: Tiny, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny(epochs=4, selection="validation", validation_fraction=0.3), faces, tmp_path)
    trainer.fit()
    scores = [line["validation"]["accuracy"] for line in trainer.run.read_stats()]
    best = max(range(4), key=lambda i: (scores[i], i)) + 1
    assert checkpoints.load(trainer.run.best)["epoch"] == best
    assert checkpoints.load(trainer.run.last)["epoch"] == 4


def test_recognition_alone_trains_without_the_gan(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    trainer = make_trainer(tiny(epochs=1, model={"synthesis": False, "sharing": "none"}), faces, tmp_path)
    trainer.fit()
    assert list(trainer.networks.modules()) == ["generator"]
    assert set(trainer.run.read_stats()[0]["losses"]) == {"classification", "generator"}


def test_it_learns(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    trainer = make_trainer(tiny(epochs=8, augmentation="none"), faces, tmp_path)
    trainer.fit()
    first, last = trainer.run.read_stats()[0]["losses"], trainer.run.read_stats()[-1]["losses"]
    for term in ("classification", "identity", "cycle"):
        assert last[term] < 0.75 * first[term], term


def test_too_few_images_for_a_batch_are_named(faces: FaceSet, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at most the 42 training images, got 64"):
        make_trainer(tiny(batch_size=64), faces, tmp_path)
