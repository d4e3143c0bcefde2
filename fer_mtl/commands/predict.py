"""fer-mtl predict: read the expressions in pictures and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.data.files import (
    PICTURE_SUFFIXES,
    distinct_stems,
    files_under,
    other_files,
    readable_names,
    shown,
)
from fer_mtl.data.images import ImageError, open_image
from fer_mtl.data.video import VIDEO_SUFFIXES
from fer_mtl.evaluation.plots import to_png
from fer_mtl.evaluation.reading import Reader, Table, Track, described, marked
from fer_mtl.faces.detector import DETECTOR_HELP, make_detector
from fer_mtl.faces.prepare import save
from fer_mtl.files import write_bytes, write_text
from fer_mtl.training.checkpoints import load_model
from fer_mtl.words import counted

DESCRIPTION = """Read the expressions in pictures and videos with a trained model. Every face is found, turned
and scaled as `fer-mtl prepare` does it; of a video every STEP-th frame is read. --out writes readings.csv (a
row per face: its file, the picture beside the table that shows it, its box and the probability of every
expression), every picture with its faces marked, and for a video the probabilities of the largest face over
time. A model reads faces like those it has learnt from: one trained on drawn faces knows nothing of
photographs. Example: fer-mtl predict runs/ck48 holiday.jpg talk.mp4 --out read"""

TABLE = "readings.csv"
SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)


class Command:
    """Reads file after file, says what it found, and keeps it where there is a folder for it."""

    def __init__(self, reader: Reader, classes: Sequence[str], console: Console, out: Path | None) -> None:
        self.reader, self.classes, self.console, self.out = reader, classes, console, out
        self.table, self.faces = Table(classes), 0

    def picture(self, path: Path, stem: str) -> None:
        name = f"{stem}.png"
        image = open_image(path)
        try:
            readings = self.reader.read(image)
        except ImageError as error:  # a detector does not know what the picture is called
            raise ImageError(f"{path}: {error}") from error
        if self.out is not None:  # first, so that the table names no picture that is not there
            save(marked(image, readings, self.classes), self.out / name)
        self.faces += len(readings)
        self.table.add(path, readings, picture="" if self.out is None else name)
        for number, reading in enumerate(readings, 1):
            which = f", face {number} of {len(readings)}" if len(readings) > 1 else ""
            self.console.line(f"{path}{which}: {described(reading.ranked(self.classes)[:3])}")
        if not readings:
            self.console.line(f"{path}: no face found")

    def video(self, path: Path, stem: str, step: int) -> None:
        track, name = Track(self.classes), f"{stem}.png"
        try:
            for count, frame in enumerate(self.reader.frames(path, step), 1):
                self.console.note(f"{counted(count, 'frame')} read")
                picture = name if self.out is not None and frame.readings else ""
                self.table.add(path, frame.readings, frame.number, frame.second, picture)
                track.add(frame)
                self.faces += len(frame.readings)
        finally:  # also of a video that breaks off: its rows are kept, and name the plot
            if self.out is not None and track.said:
                write_bytes(self.out / name, to_png(track.figure()))
        self.console.line(f"{path}: {track.summary()}")

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """What was read by then is in the table, however the block ends. It is there from the beginning, so
        that the folder is known as one of ours even where the process is killed."""
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            write_text(self.out / TABLE, self.table.text())
        try:
            yield
        finally:
            if self.out is not None:
                write_text(self.out / TABLE, self.table.text())


def inputs(names: Sequence[str]) -> list[Path]:
    """The files named, and the pictures and videos of the folders named. Raises FileNotFoundError, and
    ValueError for a folder without any and for names that no table can hold."""
    paths: list[Path] = []
    for path in (Path(name).expanduser() for name in names):
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        found = files_under(path, SUFFIXES) if path.is_dir() else readable_names([path])
        if not found:
            raise ValueError(f"no pictures and no videos in {path}")
        paths += found
    return paths


def check_out(out: Path, names: Sequence[str]) -> None:
    """ValueError where marked pictures would take the places of those named or of others, or be read the next
    time."""
    for path in (Path(name).expanduser().resolve() for name in names):
        if out.resolve().is_relative_to(path) or out.resolve() == path.parent:
            raise ValueError(f"--out must be a folder apart from what is read, got {out} for {path}")
    strange = out.is_dir() and not (out / TABLE).is_file()
    if strange and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"--out must be a new folder or one that predict has filled, got {out}")


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("predict", DESCRIPTION)
    parser.add_argument(
        "model", type=str, metavar="CHECKPOINT", help="a run folder, checkpoint or model folder"
    )
    parser.add_argument(
        "inputs", type=str, nargs="+", metavar="FILE", help="pictures, videos, or folders of them"
    )
    parser.add_argument("--detector", type=str, default="haar", help=DETECTOR_HELP)
    parser.add_argument("--step", type=int, default=5, help="of a video every STEP-th frame is read")
    parser.add_argument("--out", type=str, metavar="FOLDER", help="where table and pictures go")
    parser.add_argument(
        "--skip_bad_images", action="store_true", help="leave unreadable files out and say which"
    )
    options = parse(parser, arguments)
    if options.step < 1:
        raise ValueError(f"--step must be at least 1, got {options.step}")
    paths, console = inputs(options.inputs), Console()
    out = out_folder(options.out) if options.out else None
    if out is not None:
        check_out(out, options.inputs)
    trained, detector = load_model(options.model), make_detector(options.detector)
    folders = [path for path in (Path(name).expanduser() for name in options.inputs) if path.is_dir()]
    if others := [path for folder in folders for path in other_files(folder, SUFFIXES)]:
        console.line(f"{counted(len(others), 'other file')} left out, such as {shown(others[0])}")
    command = Command(Reader(trained.model, detector, trained.views), trained.classes, console, out)
    with command.keeping(), console.bar("files", len(paths)):
        for path, stem in zip(paths, distinct_stems(paths), strict=True):
            try:
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    command.video(path, stem, options.step)
                else:
                    command.picture(path, stem)
            except ImageError as error:
                if not options.skip_bad_images:
                    raise ImageError(f"{error}; --skip_bad_images leaves such files out") from error
                console.line(f"left out: {error}")
            console.advance()
    if not command.faces:
        raise ValueError(
            "no face found; --detector whole takes every picture for one cropped face, and a YuNet model "
            "FILE.onnx finds faces that 'haar' misses"
        )
    if out is not None:
        console.line(f"{counted(command.faces, 'face')}: {out / TABLE} and pictures beside it")
    return 0
