"""fer-mtl prepare: from photographs to aligned faces."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.data.files import PICTURE_SUFFIXES, Found, data_folder, files_under, find, other_files, shown
from fer_mtl.data.images import Cropped
from fer_mtl.data.registry import DATASETS
from fer_mtl.data.video import VIDEO_SUFFIXES, VideoFrame
from fer_mtl.faces.detector import DETECTOR_HELP, make_detector
from fer_mtl.faces.prepare import STATE, Job, prepare, resolved
from fer_mtl.files import replacing
from fer_mtl.processors import available_processors
from fer_mtl.words import counted

DESCRIPTION = """Find the face in every picture, turn and scale it so that the eyes (or five points) come to
fixed places, and crop it to SIZE x SIZE. OUT is laid out as IN, with the same names, and label files (.txt,
.csv, .xml) are copied, so that a data set is read from OUT as it was from IN. IN is a folder, or NAME:FOLDER
for those pictures alone that the data set takes with these options; frames of videos become pictures. A run
that was stopped goes on when it is started again; what failed is listed in OUT/.prepare/failed.csv. Pictures
of 110 x 110 are what training at 96 x 96 keeps. Example: fer-mtl prepare ckplus:data/CK+ data/CK+110"""

LABEL_SUFFIXES = (".txt", ".csv", ".xml")


def jobs_of_folder(root: Path) -> list[Job]:
    """Every picture in a folder and its subfolders, hidden ones left out."""
    return [_job(root, path, path) for path in files_under(root, PICTURE_SUFFIXES)]


def jobs_of_set(found: Found) -> list[Job]:
    """The pictures that a data set takes. ValueError for one that does not have its pictures in files."""
    jobs: dict[str, Job] = {}
    for record in found.records:
        if record.picture is None or isinstance(record.picture, Cropped):
            # The face is looked for in the whole picture, whatever box the data set knows.
            job = _job(found.root, record.path, record.path)
        elif isinstance(record.picture, VideoFrame):
            frame = record.path.with_suffix("") / f"{record.picture.number:05d}.png"
            job = _job(found.root, frame, record.picture)
        else:
            raise ValueError(f"{record.path} is a table of pixels, which show cropped faces already")
        jobs[job.name] = job
    return list(jobs.values())


def _job(root: Path, path: Path, picture: Any) -> Job:
    name = path.relative_to(root).as_posix()
    return Job(name, name, picture)


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("prepare", DESCRIPTION)
    parser.add_argument("source", type=str, metavar="IN", help="a folder of pictures, or NAME:FOLDER")
    parser.add_argument("out", type=str, metavar="OUT", help="the folder for the faces")
    parser.add_argument("--detector", type=str, default="haar", help=DETECTOR_HELP)
    parser.add_argument("--size", type=int, default=110, help="side of the faces in pixels")
    parser.add_argument(
        "--require_eyes", action="store_true", help="fail where no eyes are found, instead of using the box"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument(
        "--data_options",
        type=dict[str, Any],
        default={},
        help="options of the data set, --data_options.KEY VALUE",
    )
    options = parse(parser, arguments)
    console, out = Console(), out_folder(options.out, "OUT")
    name, _, rest = options.source.partition(":")
    if name in DATASETS and rest:
        found = find(options.source, **options.data_options)
        root, jobs = found.root, jobs_of_set(found)
    else:
        root = data_folder(options.source, "prepare")
        jobs = jobs_of_folder(root)
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"OUT must not lie in IN, got {out} in {root}")
    if not jobs:
        raise ValueError(f"no pictures in {root}")
    if not (name in DATASETS and rest):
        if videos := files_under(root, VIDEO_SUFFIXES):
            console.line(
                f"{counted(len(videos), 'video')} left out, such as {videos[0]}; name the data set for them"
            )
        if others := other_files(root, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, *LABEL_SUFFIXES)):
            console.line(f"{counted(len(others), 'other file')} left out, such as {shown(others[0])}")
    copies = files_under(root, LABEL_SUFFIXES)
    for path in copies:  # rather said now than when all faces are cut
        try:
            path.open("rb").close()
        except OSError as error:
            raise OSError(f"label file {path} cannot be read: {error.strerror}; mend or remove it") from error

    outcomes = prepare(
        jobs,
        out,
        partial(make_detector, options.detector),
        settings={"source": resolved(options.source), **_identity(options.detector)},
        size=options.size,
        require_eyes=options.require_eyes,
        workers=available_processors() if options.workers is None else options.workers,
        console=console,
    )
    for path in copies:
        target = out / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file, path.open("rb") as label:
            shutil.copyfileobj(label, file)
    ways = Counter(outcome.aligned for outcome in outcomes if outcome.aligned)
    found_by = WAYS if options.detector != "whole" else {}
    by = ", ".join(f"{ways[way]} by {word}" for way, word in found_by.items() if ways[way])
    console.line(f"{counted(ways.total(), 'face')} in {out}" + (f": {by}" if by else ""))
    several = sum(outcome.faces > 1 for outcome in outcomes)
    if several:
        console.line(f"{counted(several, 'picture')} with several faces, the largest was taken")
    failed = [outcome for outcome in outcomes if not outcome.aligned]
    if failed:
        console.line(
            f"{counted(len(failed), 'picture')} failed, listed in {out / STATE / 'failed.csv'}; first: "
            f"{failed[0].name}: {failed[0].reason}"
        )
    if not ways:
        hint = "" if options.detector == "whole" else "; --detector whole takes pictures for cropped faces"
        raise ValueError(f"no face was found in {root}{hint}")
    return 0


WAYS = {"five points": "five points", "eyes": "the eyes", "box": "the face's box alone (no eyes found)"}


def _identity(detector: str) -> dict[str, str]:
    """What tells detectors apart: the name, and for a model its content."""
    path = Path(detector)
    if not path.is_file():
        return {"detector": detector}
    return {"detector": path.name, "model": hashlib.sha256(path.read_bytes()).hexdigest()}
