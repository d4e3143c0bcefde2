"""fer-mtl evaluate: measure a trained model on faces it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.data import FaceSet, load
from fer_mtl.evaluation.evaluate import evaluate
from fer_mtl.evaluation.predictions import Predictions, read_csv, to_csv
from fer_mtl.evaluation.report import Evaluated, percent, write_report
from fer_mtl.files import alone, write_text
from fer_mtl.training.checkpoints import TrainedModel, load_identity, load_model
from fer_mtl.training.config import TrainConfig, from_dict
from fer_mtl.training.environment import environment
from fer_mtl.training.run import load_faces
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.seen import people_of, seen_by, warn_untold
from fer_mtl.training.starting import open_judge
from fer_mtl.words import counted

DESCRIPTION = """Measure a trained model. Without --data: on the fold that was held out of its own training.
With --data: on every image of that data set; where it shows the people of the training data, only on
subjects the model was not trained on. Prints the figures as a table; --out also writes report.json and
report.html."""


def match_classes(faces: FaceSet, classes: Sequence[str]) -> FaceSet:
    """``faces`` with its labels counted in ``classes``, by name.

    Raises ``ValueError`` for an expression that the model does not know.
    """
    unknown = [name for name in faces.classes if name not in classes and faces.class_counts()[name]]
    if unknown:
        raise ValueError(
            f"the data shows {', '.join(unknown)}, which the model does not know; it knows "
            f"{', '.join(classes)}"
        )
    index = torch.tensor([classes.index(name) if name in classes else 0 for name in faces.classes])
    return replace(faces, classes=tuple(classes), labels=index[faces.labels])


def unseen(faces: FaceSet, trained: TrainedModel, data: str) -> FaceSet:
    """The images of subjects that took no part in the training (nor in the choice of its epoch), nor in that
    of a network it was started from."""
    seen = set(seen_by(trained.origin).get(people_of(data), ()))
    kept = [i for i, subject in enumerate(faces.subjects) if subject not in seen]
    if not kept:
        raise ValueError("data must hold subjects the model was not trained on, got none")
    chosen, known = faces.subset(kept), len(faces) - len(kept)
    if known:
        chosen.notes.append(f"{counted(known, 'image')} of subjects the model was trained on left out")
    return chosen


def faces_to_test(
    trained: TrainedModel, spec: str | None, data_options: dict[str, Any], skip_bad_images: bool
) -> FaceSet:
    """What the options ask to be tested on, with the model's classes."""
    config = trained.origin.get("config")
    if spec is None:
        if data_options:
            raise ValueError("--data_options go with --data; the held-out fold is read as in the training")
        if config is None or not trained.origin["split"]["test"]:
            raise ValueError("--data is needed: this model has no test fold of its own")
        held_out = set(trained.origin["split"]["test"])
        as_trained = from_dict(TrainConfig, config)
        skip = skip_bad_images or as_trained.skip_bad_images
        faces = match_classes(load_faces(replace(as_trained, skip_bad_images=skip)), trained.classes)
        return faces.subset([i for i, subject in enumerate(faces.subjects) if subject in held_out])
    model = trained.model.config
    faces = match_classes(
        load(
            spec,
            image_size=model["image_size"],
            channels=model["in_channels"],
            skip_bad_images=skip_bad_images,
            **data_options,
        ),
        trained.classes,
    )
    return unseen(faces, trained, spec)


def describe(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [
        f"accuracy      {percent(figures['accuracy'])}  ({counted(figures['images'], 'image')})",
        f"macro F1      {percent(figures['macro_f1'])}",
        f"macro recall  {percent(figures['macro_recall'])}",
    ]
    lines += [
        f"  {name:<12}{percent(entry['recall']):>9}  ({counted(entry['images'], 'image')})"
        for name, entry in figures["per_class"].items()
    ]
    if synthesis := figures["synthesis"]:
        lines.append(
            f"synthesised expressions read correctly {percent(synthesis['expression_accuracy'])} "
            f"(by {synthesis['judge']})"
        )
        lines += [
            f"  from {name:<12}{percent(found['expression_accuracy']):>9}  "
            f"({counted(found['sources'], 'image')})"
            for name, found in synthesis["by_source"].items()
            if found["sources"]
        ]
        if synthesis["to_target"]:
            made, copied = synthesis["to_target"], synthesis["unchanged_source"]
            lines.append(
                f"distance to the true target: L1 {made['l1']:.4f} (unchanged source {copied['l1']:.4f}), "
                f"SSIM {made['ssim']:.3f} (unchanged source {copied['ssim']:.3f})"
            )
    return "\n".join(lines)


def cut_short(run: RunFolder) -> bool:
    """Whether the folder holds an evaluation that was killed while it was written, its report being the last,
    and nothing of another run."""
    if any(path.exists() for path in {*run.files()} - {run.predictions, run.pictures, run.html}):
        return False
    try:
        read_csv(run.predictions)
    except (FileNotFoundError, ValueError):  # none, or another table of this name
        return False
    return True


def check_free(folder: Path) -> None:
    """Raise ``FileExistsError`` where an evaluation would take the place of something."""
    run = RunFolder(folder)
    if run.holds_a_run() and not cut_short(run):
        raise FileExistsError(f"{folder} already holds a run or an evaluation; choose another --out")


def write(evaluated: Evaluated, predictions: Predictions, folder: Path, model: str) -> None:
    """All files of an evaluation into ``folder``, or none of them."""
    with alone(folder):
        check_free(folder)  # now, too: another evaluation may have ended there since the command began
        run = RunFolder(folder)
        try:
            write_text(run.predictions, to_csv(predictions))
            title, lead = f"FERSNet on {evaluated.faces.name}", f"Evaluation of {model}"
            write_report(evaluated, folder, title, lead)
        except BaseException:  # the same command would be refused for what is left
            run.clear()
            raise


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("evaluate", DESCRIPTION)
    parser.add_argument(
        "model",
        type=str,
        metavar="RUN_OR_CHECKPOINT",
        help="a run folder (its best checkpoint), a checkpoint file or a folder of save_pretrained",
    )
    parser.add_argument(
        "--data", type=str, metavar="NAME:FOLDER", help="what to test on (default: the held-out fold)"
    )
    parser.add_argument(
        "--data_options",
        type=dict[str, Any],
        default={},
        help="options of that data set, --data_options.KEY VALUE",
    )
    parser.add_argument("--out", type=str, metavar="FOLDER", help="write report.json and report.html there")
    parser.add_argument(
        "--skip_bad_images", action="store_true", help="leave unreadable images out and list them"
    )
    parser.add_argument(
        "--judge", type=str, metavar="RUN", help="a run whose recogniser reads the synthesised faces"
    )
    options = parse(parser, arguments)
    folder = out_folder(options.out) if options.out else None
    if folder is not None:
        check_free(folder)
    trained = load_model(options.model)
    warn_untold(options.model, trained.origin)
    faces = faces_to_test(trained, options.data, options.data_options, options.skip_bad_images)
    console = Console()
    console.line(faces.describe())
    config = trained.origin.get("config")
    data = options.data or trained.origin["config"]["data"]
    judge = None
    if options.judge:
        judge = open_judge(options.judge, set(faces.subjects), data, trained.model.config, trained.classes)
    figures, predictions = evaluate(
        trained.model,
        faces,
        judge=judge,
        identity=load_identity(options.model),
        views=trained.views,
    )
    report = {
        "model": options.model,
        "data": data,
        "known_subjects": faces.known_subjects,
        **figures,
    }
    console.line(describe(report))
    if folder is not None:
        settings, told = config or trained.model.config, config is not None
        evaluated = Evaluated(report, trained.model, faces, (), settings, environment(), told)
        write(evaluated, predictions, folder, options.model)
        console.line(f"report: {folder / 'report.html'}")
    return 0
