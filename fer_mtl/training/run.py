"""One run from its configuration to its report: load, split, train, keep the selected epoch, test it once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fer_mtl.data import FaceSet, load
from fer_mtl.evaluation.report import Evaluated, evaluate, percent, write_report
from fer_mtl.evaluation.synthesis import Judge
from fer_mtl.training import checkpoints
from fer_mtl.training.config import TrainConfig, to_dict
from fer_mtl.training.console import Console
from fer_mtl.training.environment import environment
from fer_mtl.training.files import write_json
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.split import Split, make_split
from fer_mtl.training.trainer import Trainer


def load_faces(config: TrainConfig) -> FaceSet:
    """The data set of ``config``, for its image size and channels.

    Raises ``ValueError`` where synthesis is asked for and the set does not tell who is who, since no picture
    then has a partner of the same person; and what the loaders raise.
    """
    faces = load(
        config.data,
        image_size=config.model.image_size,
        channels=config.model.in_channels,
        skip_bad_images=config.skip_bad_images,
        **config.data_options,
    )
    if config.model.synthesis and not faces.known_subjects:
        raise ValueError(
            f"model.synthesis must be false (and model.sharing none) for {faces.name}: it does not tell "
            "who is who, so there are no pairs of one person to learn from"
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
        f"{role} {len(getattr(split, role))} images of {count} subjects"
        for role, count in subjects.items()
        if count
    )
    model = config.model
    steps = -(-len(split.train) // config.batch_size)
    tasks = (
        f"recognition and synthesis, sharing {model.sharing}, discriminator {config.discriminator_steps} : 1"
        if model.synthesis
        else "recognition alone"
    )
    kept = "the last epoch" if config.selection == "last" else "the best epoch on the validation subjects"
    return "\n".join(
        (
            faces.describe(),
            f"{fold_name(config)}: {parts}",
            f"model: {model.image_size} px, width {model.width:g}, {tasks}",
            f"training: {config.epochs} epochs of {steps} steps of {config.batch_size}, "
            f"augmentation {config.augmentation}, keeps {kept}",
        )
    )


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

    ``faces`` saves loading what is in memory already (it must be what ``config.data`` names); ``judge`` is
    passed on to the measures of synthesis. Raises as :class:`Trainer` and the data loaders do, and
    ``FileExistsError`` when the folder holds a run that is neither resumed nor overwritten.
    """
    run, console = RunFolder(folder), console or Console(quiet=True)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if not resume and not overwrite:
        run.check_free()
    faces = faces if faces is not None else load_faces(config)
    split = make_split(config, faces)
    subjects = split.subjects(faces)
    validation = faces.subset(split.validation) if len(split.validation) else None
    trainer = Trainer(
        config,
        faces.subset(split.train),
        validation,
        run,
        subjects=subjects,
        console=console,
        on_step=on_step,
    )
    console.line(describe_plan(config, faces, split))
    if resume:
        trainer.resume()
        console.line(f"resuming in epoch {trainer.position.epoch + 1}, step {trainer.position.step + 1}")
    else:
        run.create(overwrite)
        run.write_config(config)
        write_json(run.environment, environment(trainer.device))
    trainer.fit()
    return finish(config, run, trainer, faces.subset(split.test), subjects, judge, console)


def finish(
    config: TrainConfig,
    run: RunFolder,
    trainer: Trainer,
    test: FaceSet,
    subjects: dict[str, list[str]],
    judge: Judge | None,
    console: Console,
) -> dict[str, Any]:
    """Test the selected epoch and write the report. Without a test fold only the training is reported."""
    trained = checkpoints.load_model(run.best, trainer.device)
    report: dict[str, Any] = {
        "data": config.data,
        "preset": config.preset,
        "sharing": config.model.sharing,
        "selection": config.selection,
        "epoch": trained.origin["epoch"],
        "seconds": trainer.position.seconds,
        "parameters": trained.model.parameter_counts(),
        "split": subjects,
    }
    if not len(test):
        write_json(run.report, report)
        console.line(f"no test fold; the model is in {run.best}")
        return report
    report |= evaluate(trained.model, test, judge)
    report["per_fold"] = [
        {
            "fold": config.fold,
            "accuracy": report["accuracy"],
            "n_train": len(trainer.train_set),
            "n_test": len(test),
            "test_subjects": subjects["test"],
        }
    ]
    write_report(
        Evaluated(report, trained.model, test, run.read_stats(), to_dict(config), run.read_environment()),
        run.root,
        f"FERSNet on {test.name}",
        f"Sharing {config.model.sharing}, {fold_name(config)}, preset {config.preset}",
    )
    console.line(
        f"accuracy on {len(test)} images of {len(subjects['test'])} unseen subjects: "
        f"{percent(report['accuracy'])}, macro recall {percent(report['macro_recall'])}"
    )
    console.line(f"report: {run.html}")
    return report
