"""One run from its configuration to its report: load, split, train, keep the selected epoch, test it once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fer_mtl.console import Console
from fer_mtl.data import FaceSet, load
from fer_mtl.evaluation.evaluate import evaluate
from fer_mtl.evaluation.predictions import to_csv
from fer_mtl.evaluation.quality import Judge
from fer_mtl.evaluation.report import Evaluated, percent, write_report
from fer_mtl.files import alone, write_json, write_text
from fer_mtl.training import checkpoints
from fer_mtl.training.config import TrainConfig, to_dict
from fer_mtl.training.environment import environment
from fer_mtl.training.fold_folders import is_crossval
from fer_mtl.training.interrupt import Interrupted
from fer_mtl.training.methods import method_of
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.split import Split, make_split, missing_classes
from fer_mtl.training.starting import check_start, load_judge
from fer_mtl.training.synthetic import load_synthetic
from fer_mtl.training.trainer import Trainer
from fer_mtl.words import counted


def load_faces(config: TrainConfig) -> FaceSet:
    """The data set of ``config``, for its image size and channels.

    Raises ``ValueError`` where synthesis is to be compared with true pictures of the same person and the set
    does not tell who is who; and what the loaders raise.
    """
    faces = load(
        config.data,
        image_size=config.model.image_size,
        channels=config.model.in_channels,
        skip_bad_images=config.skip_bad_images,
        **config.data_options,
    )
    if config.model.synthesis and config.loss.identity and not faces.known_subjects:
        raise ValueError(
            f"loss.identity must be 0 for {faces.name}, got {config.loss.identity:g}: it does not tell who "
            "is who, so no synthesised face has a true picture of the same person to be compared with (or "
            "train recognition alone: --method baseline)"
        )
    return faces


def fold_name(config: TrainConfig) -> str:
    """Which fold a run tests, for people."""
    if config.fold is None:
        return "no test fold"
    if config.fold_rule == "official":
        return "official split"
    return f"fold {config.fold} of {config.folds} ({config.fold_rule})"


def describe_plan(config: TrainConfig, faces: FaceSet, split: Split) -> str:
    """What a run would do, in a few lines: the answer to ``--dry-run`` and the head of every training."""
    subjects = {role: len(names) for role, names in split.subjects(faces).items()}
    parts = ", ".join(
        f"{role} {counted(len(getattr(split, role)), 'image')}"
        + (f" of {counted(count, 'subject')}" if faces.known_subjects else "")
        for role, count in subjects.items()
        if count
    )
    model = config.model
    images = len(split.train) if config.synthetic is None else round(len(split.train) / (1 - config.mix))
    steps = -(-images // config.batch_size)
    tasks = (
        f"recognition and synthesis, sharing {model.sharing}, discriminator {config.discriminator_steps} : 1"
        if model.synthesis
        else "recognition alone"
    )
    kept = "the last epoch" if config.selection == "last" else "the best epoch on the validation subjects"
    mixed = f", {config.mix:.0%} synthetic from {config.synthetic}" if config.synthetic else ""
    started = f", from {config.init} but for {', '.join(config.restart) or 'nothing'}" if config.init else ""
    return "\n".join(
        (
            faces.describe(),
            f"{fold_name(config)}: {parts}",
            f"model: {model.image_size} px, width {model.width:g}, {tasks}",
            f"training: {counted(config.epochs, 'epoch')} of {counted(steps, 'step')} of "
            f"{config.batch_size}, {config.precision}, augmentation {config.augmentation}, keeps {kept}"
            f"{mixed}{started}",
        )
    )


@dataclass(frozen=True)
class Ready:
    """A run of which nothing but its training is missing."""

    trainer: Trainer
    test: FaceSet
    judge: Judge | None


def make_ready(
    config: TrainConfig,
    run: RunFolder,
    *,
    resume: bool = False,
    overwrite: bool = False,
    faces: FaceSet | None = None,
    judge: Judge | None = None,
    console: Console,
    on_step: Callable[[Trainer], None] | None = None,
) -> Ready:
    """Load and check everything that a run needs, say what it would do, and write nothing.

    The arguments, and what is raised, are those of :func:`train_run`.
    """
    if is_crossval(run.root):
        raise ValueError(
            f"{run.root} holds a cross-validation: fer-mtl crossval goes on with it, given the settings "
            "it was begun with"
        )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if not resume and not overwrite:
        run.check_free()
    faces = faces if faces is not None else load_faces(config)
    split = make_split(config, faces)
    subjects = split.subjects(faces)
    test = faces.subset(split.test)
    if missing := missing_classes(faces, split.train):
        console.line(f"warning: no training image of {', '.join(missing)}; those faces cannot be recognised")
    check_start(config, subjects["test"], faces.classes)
    judge = judge or load_judge(config.judge, subjects["test"], config, faces.classes)
    train = faces.subset(split.train)
    trainer = Trainer(
        config,
        train,
        faces.subset(split.validation) if len(split.validation) else None,
        run,
        subjects=subjects,
        synthetic=None if config.synthetic is None else load_synthetic(config.synthetic, train),
        watched=test if config.optimistic and len(test) else None,
        console=console,
        on_step=on_step,
    )
    console.line(describe_plan(config, faces, split))
    return Ready(trainer, test, judge)


def train_run(
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    faces: FaceSet | None = None,
    judge: Judge | None = None,
    console: Console | None = None,
    on_step: Callable[[Trainer], None] | None = None,
) -> dict[str, Any]:
    """Train, test the selected epoch on the held-out fold and write the whole run folder; returns
    report.json.

    ``resume`` goes on from the last checkpoint, or begins where the run was stopped before the first one.
    ``faces`` saves loading what is in memory already (it must be what ``config.data`` names); ``judge`` is
    passed on to the measures of synthesis. Raises as :class:`Trainer` and the data loaders do,
    ``FileExistsError`` when the folder holds a run that is neither resumed nor overwritten, ``ValueError``
    when it is that of a whole cross-validation, and ``BlockingIOError`` when another process trains in it.
    """
    run, console = RunFolder(folder), console or Console(quiet=True)
    ready = make_ready(
        config, run, resume=resume, overwrite=overwrite, faces=faces, judge=judge, console=console,
        on_step=on_step,
    )  # fmt: skip
    trainer = ready.trainer
    with alone(run.root):
        if resume and not run.unbegun():
            trainer.resume()
            run.read_environment()  # the report needs it: rather an error now than after the last epoch
            console.line(f"resuming in epoch {trainer.position.epoch + 1}, step {trainer.position.step + 1}")
        else:
            run.create(overwrite or resume)
            run.write_config(config)
            write_json(run.environment, environment(trainer.device))
        trainer.fit()
        try:
            return finish(config, run, ready, console)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after the last epoch, before the report; {run.how_to_go_on}"
            ) from None


def finish(config: TrainConfig, run: RunFolder, ready: Ready, console: Console) -> dict[str, Any]:
    """Test the selected epoch and write the report. Without a test fold only the training is reported."""
    trainer, test, subjects = ready.trainer, ready.test, ready.trainer.subjects
    trained = checkpoints.load_model(run.best, trainer.device)
    report: dict[str, Any] = {
        "data": config.data,
        "preset": config.preset,
        "method": method_of(config),
        "sharing": config.model.sharing,
        "selection": config.selection,
        "epoch": trained.origin["epoch"],
        "seconds": trainer.position.seconds,
        "parameters": trained.model.parameter_counts(),
        "split": subjects,
        "known_subjects": test.known_subjects,
    }
    if not len(test):
        write_json(run.report, report)
        console.line(f"no test fold; the model is in {run.best}")
        return report
    figures, predictions = evaluate(
        trained.model,
        test,
        judge=ready.judge,
        identity=trainer.networks.identity,
        views=config.views,
    )
    report |= figures
    if config.optimistic:
        best = max(run.read_stats(), key=lambda line: line["test_fold"]["accuracy"])
        report["optimistic"] = {"epoch": best["epoch"], "selected_on": "the test fold", **best["test_fold"]}
    write_text(run.predictions, to_csv(predictions))
    report["per_fold"] = [
        {
            "fold": config.fold,
            "accuracy": report["accuracy"],
            "n_train": len(trainer.train_set),
            "n_test": len(test),
            "test_subjects": subjects["test"],
            "train_subjects": subjects["train"],
        }
    ]
    write_report(
        Evaluated(report, trained.model, test, run.read_stats(), to_dict(config), run.read_environment()),
        run.root,
        f"FERSNet on {test.name}",
        f"{method_of(config)}, {fold_name(config)}, preset {config.preset}",
    )
    if test.known_subjects:
        unseen = f"{counted(len(test), 'image')} of {counted(len(subjects['test']), 'unseen subject')}"
    else:
        unseen = counted(len(test), "unseen image")
    console.line(
        f"accuracy on {unseen}: {percent(report['accuracy'])}, macro recall {percent(report['macro_recall'])}"
    )
    console.line(f"report: {run.html}")
    return report
