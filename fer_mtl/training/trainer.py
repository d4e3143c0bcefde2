"""The training loop: epochs over shuffled training images, paired, augmented, and put through the phases.

Everything that decides the next step (networks, optimisers, random generators, position in the epoch) is in
``Trainer.state()``, so a run that was stopped between any two steps and resumed ends with the same bits as
one that was not, on the same machine and thread count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.data.pairs import PairSampler
from fer_mtl.evaluation.metrics import recognition_figures
from fer_mtl.evaluation.predict import evaluate_recognition
from fer_mtl.models.identity import IdentityEncoder, freeze
from fer_mtl.training import checkpoints
from fer_mtl.training.augmentation import make_augmentation
from fer_mtl.training.averaging import update_average
from fer_mtl.training.config import PLACE, TrainConfig, changes, to_dict
from fer_mtl.training.epochs import Position, describe, draw_order
from fer_mtl.training.events import Events
from fer_mtl.training.identity import train_identity
from fer_mtl.training.interrupt import Interrupted, StepInterrupt
from fer_mtl.training.networks import build_networks, choose_device, make_optimiser
from fer_mtl.training.phases import Batch, NotFinite, mix_up, plan, take_step, values_of
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.schedule import learning_rate
from fer_mtl.training.seen import seen_by_run
from fer_mtl.training.split import check_expressions
from fer_mtl.training.synthetic import join

SLOWER = "try a smaller optimiser.learning_rate"


class Trainer:
    """Trains the networks of ``config`` on ``train``; ``validation`` (other subjects) selects the epoch, if
    asked to.

    ``synthetic`` faces are mixed in as sources, never as targets. ``watched`` faces are read after every
    epoch and the accuracy is noted; it decides nothing. ``on_step`` is called after every finished step: for
    tests and tools that watch a run.
    """

    def __init__(
        self,
        config: TrainConfig,
        train: FaceSet,
        validation: FaceSet | None,
        run: RunFolder,
        *,
        subjects: dict[str, list[str]] | None = None,
        synthetic: FaceSet | None = None,
        watched: FaceSet | None = None,
        console: Console | None = None,
        on_step: Callable[[Trainer], None] | None = None,
    ) -> None:
        if len(train) < config.batch_size:
            raise ValueError(
                f"batch_size must be at most the {len(train)} training images, got {config.batch_size}"
            )
        self.config, self.train_set, self.validation, self.run = config, train, validation, run
        self.watched = watched
        self.faces = train if synthetic is None else join(train, synthetic)
        """Training faces: the real ones, then the synthetic ones."""
        self.subjects = subjects or {}
        self.seen = seen_by_run(config, self.subjects)
        self.console = console or Console(quiet=True)
        self.on_step = on_step
        self.device = choose_device(config.device)
        self.random = torch.Generator().manual_seed(config.seed)
        torch.manual_seed(config.seed)
        people = len(set(train.subjects)) if train.known_subjects else None
        self.networks = build_networks(config, len(train.classes), people, self.device)
        self.optimisers = {
            name: make_optimiser(config, module, self.networks.weighting if name == "generator" else None)
            for name, module in self.networks.trained().items()
        }
        steps, smoothing = config.discriminator_steps, config.label_smoothing
        self.augment = make_augmentation(config.augmentation, config.model.image_size)
        self.phases = {
            synthesise: plan(
                self.networks,
                self.optimisers,
                config.loss,
                steps,
                synthesise=synthesise,
                label_smoothing=smoothing,
                look=partial(self.augment.again, generator=self.random),
            )
            for synthesise in (False, True)
        }
        real = torch.arange(len(train))
        # Where nobody knows who is who, anybody's face shows what the wanted expression looks like.
        owners = self.faces.subjects if train.known_subjects else [""] * len(self.faces)
        self.pairs = PairSampler(self.faces.labels, owners, len(train.classes), self.random, pool=real)
        self.position = Position()
        self.events = Events(run.events) if config.tensorboard else None

    # -- the loop --------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last epoch.

        Raises ``Interrupted`` after Ctrl-C and its like, when ``last.pt`` holds the step it stopped at (after
        a second Ctrl-C in the middle of a step the state saved before), and ``RuntimeError`` when a loss or
        a weight is not finite, when ``last.pt`` still holds the state saved before.
        """
        between_steps = True
        with StepInterrupt() as interrupt:
            try:
                self.prepare(interrupt)
                while self.position.epoch < self.config.epochs:
                    self.begin_epoch()
                    batches = self.batches()
                    with self.console.bar(
                        f"epoch {self.position.epoch + 1}/{self.config.epochs}",
                        len(batches),
                        self.position.step,
                    ):
                        for indices in batches[self.position.step :]:
                            between_steps = False
                            self.step(indices)
                            between_steps = True
                            if self.on_step:
                                self.on_step(self)
                            interrupt.check()
                    self.end_epoch()
            except KeyboardInterrupt:
                if not self.run.last.exists():
                    raise Interrupted(f"stopped before the first step; {self.run.how_to_go_on}") from None
                if between_steps:
                    self.save()
                where = (
                    f"stopped in epoch {self.position.epoch + 1} of {self.config.epochs} "
                    f"after {self.position.step} of {len(self.batches())} steps"
                )
                lost = "" if between_steps else " (those since the last checkpoint are lost)"
                raise Interrupted(f"{where}{lost}; {self.run.how_to_go_on}") from None
            except NotFinite as error:
                raise RuntimeError(
                    f"{error} in epoch {self.position.epoch + 1}, step {self.position.step + 1}; {SLOWER}"
                ) from error

    def prepare(self, interrupt: StepInterrupt) -> None:
        """In a new run, teach the identity encoder the training subjects and write the first checkpoint."""
        if self.run.last.exists():
            return
        encoder = self.networks.identity
        if isinstance(encoder, IdentityEncoder):
            began = time.perf_counter()
            accuracy = train_identity(
                encoder, self.train_set, self.config, self.random, self.console, interrupt.check
            )
            self.position.seconds = time.perf_counter() - began
            self.console.line(
                f"identity encoder: tells {len(set(self.train_set.subjects))} training subjects apart "
                f"with {accuracy:.1%} accuracy"
            )
        self.save()

    def begin_epoch(self) -> None:
        if self.position.order is None:
            self.position.order = draw_order(
                len(self.train_set), len(self.faces), self.config.mix, self.random
            )
        for module in self.networks.trained().values():
            module.train()

    def batches(self) -> list[torch.Tensor]:
        """This epoch's batches of training indices. A last batch of one image, which batch normalisation
        could not take, is left out: the next shuffle brings that image back."""
        order = self.position.order
        if order is None:
            return []
        return [chunk for chunk in order.split(self.config.batch_size) if len(chunk) > 1]

    def step(self, indices: torch.Tensor) -> None:
        """One batch through every phase."""
        began = time.perf_counter()
        position, config = self.position, self.config
        rate = learning_rate(config, position.epoch + position.step / len(self.batches()))
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        synthesise = position.step % config.synthesis_every == 0
        batch = self.make_batch(indices)
        if config.mixup and not (synthesise and self.networks.discriminator is not None):
            batch = mix_up(batch, config.mixup, len(self.faces.classes), self.random)
        step = take_step(batch, self.networks, synthesise)
        found = {phase.name: phase.run(step) for phase in self.phases[synthesise]}
        if self.networks.averaged is not None:
            update_average(self.networks.averaged, self.networks.generator, config.average, position.updates)
        count = len(step.batch)
        for name, value in values_of(found).items():
            position.sums[name] = position.sums.get(name, 0.0) + value * count
            position.counts[name] = position.counts.get(name, 0) + count
        position.hits += int((step.logits.argmax(1) == step.batch.source_label).sum())
        position.images += count
        position.step += 1
        position.updates += 1
        position.epoch_seconds += time.perf_counter() - began
        self.console.advance(
            f"loss {position.sums['generator'] / position.images:.3f}  "
            f"{position.images / position.epoch_seconds:.0f} images/s"
        )

    def make_batch(self, indices: torch.Tensor) -> Batch:
        """Pairs for the training images ``indices``, on the device and augmented alike there: done before
        they get there, it would hold up a GPU."""
        pairs, faces, device = self.pairs.sample(indices), self.faces, self.device
        source, target = faces.images[pairs.source].to(device), faces.images[pairs.target].to(device)
        source, target = self.augment(source, target, generator=self.random)
        labels = faces.labels[pairs.source].to(device)
        return Batch(source, labels, target, pairs.target_label.to(device))

    def end_epoch(self) -> None:
        """Selection, the line of stats.jsonl, checkpoints."""
        position, config = self.position, self.config
        line: dict[str, Any] = {
            "epoch": position.epoch + 1,
            "losses": {name: total / position.counts[name] for name, total in position.sums.items()},
            "train_accuracy": position.hits / position.images,
            "learning_rate": learning_rate(config, position.epoch),
            "seconds": position.seconds + position.epoch_seconds,
            "images_per_second": position.images / position.epoch_seconds,
        }
        score = None
        if self.validation is not None:
            line["validation"] = self.figures(self.validation)
            score = line["validation"]["accuracy"]
        if self.watched is not None:
            line["test_fold"] = self.figures(self.watched)
        last = position.epoch + 1 == config.epochs
        selected = score is not None and (position.best is None or score >= position.best)
        best, best_epoch = (
            (score, position.epoch + 1) if selected or score is None else (position.best, position.best_epoch)
        )
        self.run.add_stats(line)
        if self.events is not None:
            self.events.write(line, self.networks.used, self.train_set)
        self.position = Position(
            epoch=position.epoch + 1,
            seconds=line["seconds"],
            updates=position.updates,
            best=best,
            best_epoch=best_epoch,
        )
        if last or selected or self.position.epoch % config.checkpoint_every == 0:
            self.save()
        self.console.line(describe(line, config.epochs))

    def figures(self, faces: FaceSet) -> dict[str, float]:
        """Accuracy and macro recall of the generator that would be kept, on ``faces``."""
        _, confusion = evaluate_recognition(self.networks.used, faces, views=self.config.views)
        figures = recognition_figures(confusion, faces.classes)
        return {key: figures[key] for key in ("accuracy", "macro_recall")}

    # -- saving and resuming ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on, as ``weights_only`` loading accepts it."""
        return {
            **checkpoints.model_content(self.networks.used, self.train_set.classes),
            "config": to_dict(self.config),
            "split": self.subjects,
            "seen": self.seen,
            "images": len(self.faces),
            "epoch": self.position.epoch,
            "networks": {
                name: module.state_dict()
                for name, module in self.networks.modules().items()
                if module is not self.networks.used
            },
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "position": asdict(self.position),
            "random": self.random.get_state(),
            "torch_random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def save(self) -> None:
        """Write ``last.pt`` and, right after an epoch that is selected, the light ``best.pt``.

        That one first: a process that dies in between does the epoch again. ``RuntimeError`` where a weight
        is not finite, when both are left as they were.
        """
        state, position = self.state(), self.position
        if not all(map(checkpoints.finite, (state["model"], *state["networks"].values()))):
            raise RuntimeError(
                f"a weight is not finite in epoch {position.epoch + 1} after step {position.step}; {SLOWER}"
            )
        if 0 < position.epoch == position.best_epoch and position.step == 0:
            kept = ("model", "model_config", "classes", "config", "split", "seen", "epoch")
            checkpoints.save({key: state[key] for key in kept}, self.run.best)
        checkpoints.save(state, self.run.last)

    def resume(self) -> None:
        """Go back to the state in ``last.pt``, also with other threads or on another device.

        ``ValueError`` when it belongs to another configuration, to other expressions, or to another split:
        what was trained on then would be tested now.
        """
        state = checkpoints.load(self.run.last)
        if different := changes(state["config"], to_dict(self.config), PLACE):
            raise ValueError(
                f"{self.run.last} was trained with another configuration than {self.run.config}: "
                f"{different[0]}; put that back, or begin anew in another --out"
            )
        check_expressions(self.run.last, state["classes"], self.train_set.classes)
        if state["split"] != self.subjects:
            raise ValueError(
                f"{self.run.last} was trained with other subjects in training, validation or test: the data, "
                "or what makes the folds, has changed since; begin anew in another --out"
            )
        images = state.get("images", len(self.faces))  # older ones lack it
        if images != len(self.faces):
            raise ValueError(
                f"{self.run.last} was trained on {images} images, not {len(self.faces)}: the data has "
                "changed since; begin anew in another --out"
            )
        self.networks.used.load_state_dict(state["model"])
        for name, weights in state["networks"].items():
            self.networks.modules()[name].load_state_dict(weights)
        if self.networks.identity is not None:
            freeze(self.networks.modules()["identity"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.position = Position(**state["position"])
        self.random.set_state(state["random"])
        torch.set_rng_state(state["torch_random"])
        if self.device.type == "cuda" and state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        self.run.keep_stats(self.position.epoch)
