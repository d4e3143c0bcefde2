"""fer-mtl synthesize: redraw faces with another expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.data.augmentation import center
from fer_mtl.data.files import distinct_stems
from fer_mtl.data.images import open_image
from fer_mtl.evaluation.face_plots import face_grid
from fer_mtl.evaluation.pictures import to_image
from fer_mtl.evaluation.plots import to_png
from fer_mtl.evaluation.reading import aligned, find_faces
from fer_mtl.evaluation.synthesis import synthesise
from fer_mtl.faces.detector import DETECTOR_HELP, Detector, make_detector
from fer_mtl.files import write_bytes
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.training.checkpoints import load_model
from fer_mtl.words import counted

DESCRIPTION = """Redraw face images with one expression or with all of them. Writes NAME_EXPRESSION.png for
each and grid.png (first column: the source) into a folder. Images should show a cropped face, as in training;
of a photograph `--detector haar` finds, turns and scales the largest face, as `fer-mtl prepare` does it."""

ALL = "all"
GRID = "grid.png"


def wanted(expression: str, classes: Sequence[str]) -> list[int]:
    """The labels that ``expression`` asks for. ``ValueError`` when the model does not know it."""
    if expression == ALL:
        return list(range(len(classes)))
    if expression not in classes:
        raise ValueError(f"--expression must be {ALL} or one of {', '.join(classes)}, got {expression!r}")
    return [list(classes).index(expression)]


def largest_face(model: FERSNet, detector: Detector, path: Path) -> torch.Tensor:
    """uint8 ``[1, C, S, S]``. ImageError for a file that cannot be read, ValueError where there is none."""
    image = open_image(path)
    faces = find_faces(detector, image)
    if not faces:
        raise ValueError(f"{path}: no face found; --detector whole takes the picture for a cropped face")
    return aligned(model, image, faces[:1])


def check_apart(sources: Sequence[Path], files: Sequence[Path]) -> None:
    """ValueError where a picture that is to be written would take the place of one that is read."""
    read = {path.resolve() for path in sources}
    if lost := [path for path in files if path.resolve() in read]:
        raise ValueError(f"--out must be a folder apart from what is read, {lost[0]} would be replaced")


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("synthesize", DESCRIPTION)
    parser.add_argument(
        "model", type=str, metavar="CHECKPOINT", help="a run folder, checkpoint or model folder"
    )
    parser.add_argument("images", type=str, nargs="+", metavar="IMAGE", help="pictures of faces")
    parser.add_argument(
        "--expression", type=str, default=ALL, help=f"an expression the model knows, or {ALL}"
    )
    parser.add_argument("--detector", type=str, default="whole", help=DETECTOR_HELP)
    parser.add_argument(
        "--out", type=str, default="synthesized", metavar="FOLDER", help="where the pictures go"
    )
    options = parse(parser, arguments)
    folder = out_folder(options.out)
    trained = load_model(options.model)
    model, labels = trained.model, wanted(options.expression, trained.classes)
    size = model.config["image_size"]
    paths = [Path(path).expanduser() for path in options.images]
    columns = [trained.classes[label] for label in labels]
    files = [folder / f"{name}_{expression}.png" for name in distinct_stems(paths) for expression in columns]
    check_apart(paths, [*files, folder / GRID])
    # Every image is read before anything is written: a bad one stops the command with nothing half done.
    detector = make_detector(options.detector)
    source = center(torch.cat([largest_face(model, detector, path) for path in paths]), size)
    made = synthesise(
        model, source.repeat_interleave(len(labels), 0), torch.tensor(labels).repeat(len(paths))
    )
    folder.mkdir(parents=True, exist_ok=True)
    for file, face in zip(files, made, strict=True):
        write_bytes(file, to_image(face))
    made = made.reshape(len(paths), len(labels), *source.shape[1:])
    grid = face_grid(torch.cat([source[:, None], made], 1), ("source", *columns))
    write_bytes(folder / GRID, to_png(grid))
    Console().line(f"{counted(len(paths) * len(labels), 'picture')} and {GRID} in {folder}")
    return 0
