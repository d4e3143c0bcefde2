"""What the data sets made of files share: listing folders, and turning labelled pictures into a FaceSet.

Such a data set is one function from its folder to a `Found`, entered by `@register_files(...)`.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL
from fer_mtl.data.faceset import FaceSet
from fer_mtl.data.images import Picture, read_images
from fer_mtl.data.registry import Finder, check_options, lookup, register, require_folder

_CLUTTER = {"thumbs.db", "desktop.ini"}
PREPARED = ".prepare"
"""The folder that `fer-mtl prepare` leaves among the faces it has cut out."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Record:
    """One labelled picture.

    path: the file it is in; expression: one of the set's classes; subject: who it is
    split: its part of the official split, if there is one
    picture: what to open instead of the whole file, and name: what to call it then
    """

    path: Path
    expression: str
    subject: str
    split: str | None = None
    picture: Picture | None = None
    name: str | None = None


@dataclass
class Found:
    """The labelled pictures of a data set.

    records: in the order of the face set to be; classes: expressions in the order of their labels
    notes: remarks for people, e.g. what the set's own rules left out, and how much
    known_subjects: as in `FaceSet`
    """

    root: Path
    records: list[Record]
    classes: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    known_subjects: bool = True


def register_files(
    name: str, *, summary: str, layout: str, obtain: str, labels: str, subjects: str, frames: str = "",
    people: str | None = None,
) -> Callable[[Finder], Finder]:  # fmt: skip
    """Enter a data set made of files: the decorated function lists its pictures, finder(root, **options).

    `root` exists and is a folder. The finder raises ValueError, naming the file or folder, for whatever does
    not follow the layout.
    """

    def enter(finder: Finder) -> Finder:
        @wraps(finder)
        def loader(
            folder: str | Path, *, image_size: int, channels: int = 3, skip_bad_images: bool = False,
            **options: Any,
        ) -> FaceSet:  # fmt: skip
            found = finder(data_folder(folder, name), **options)
            return build_faceset(
                name, found, image_size=image_size, channels=channels, skip_bad_images=skip_bad_images
            )

        register(
            name, summary=summary, layout=layout, obtain=obtain, labels=labels, subjects=subjects,
            frames=frames, finder=finder, people=people or name,
        )(loader)  # fmt: skip
        return finder

    return enter


def find(spec: str, **options: Any) -> Found:
    """The pictures of "NAME:FOLDER" with their labels, none of them read yet.

    Raises as `fer_mtl.data.load` does, and ValueError for a set that is not made of files.
    """
    info, folder = lookup(spec)
    if info.finder is None:
        raise ValueError(f"data set {info.name!r} is not made of picture files")
    require_folder(info, folder)
    check_options(info, options)
    found: Found = info.finder(data_folder(folder, info.name), **options)
    return found


def data_folder(folder: str | Path, name: str) -> Path:
    """The folder as a Path; FileNotFoundError or NotADirectoryError naming it where it is none."""
    path = Path(folder).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"data folder of {name!r} does not exist: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"data folder of {name!r} is not a folder: {path}")
    return path


def part_of(root: Path, places: Sequence[str], what: str) -> Path:
    """The one of `places` (paths relative to root, "." for itself) that exists.

    ValueError for none, and for two: mixed copies of one set must not be read as if they were one.
    """
    there = [place for place in places if (root / place).exists()]
    if len(there) == 1:
        return root / there[0]
    if not there:
        raise ValueError(f"{root} has no {what}: expected {' or '.join(places)} in it")
    raise ValueError(f"{root} has {what} twice, as {' and '.join(there)}: name the folder of one of them")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones. Raises as :func:`readable_names`."""
    return readable_names(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def deepest(folder: Path, layout: str) -> Path:
    """The folder itself. ValueError where there are folders in it, whose pictures would be passed over."""
    for inner in subfolders(folder):
        raise ValueError(f"{inner} is a folder where pictures are expected ({layout})")
    return folder


def files_in(folder: Path) -> list[Path]:
    """The files in a folder, sorted by name, without hidden ones and what file managers leave behind. Raises
    as :func:`readable_names`."""
    return readable_names(
        p
        for p in folder.iterdir()
        if _is_file(p) and not p.name.startswith(".") and p.name.lower() not in _CLUTTER
    )


def files_under(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of these suffixes in a folder and below (links are followed), sorted, without hidden ones.
    Raises as :func:`readable_names`, and OSError for a folder that cannot be read."""
    return readable_names(path for path in _visible(folder) if path.suffix.lower() in suffixes)


def other_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """What :func:`files_under` leaves out, without hidden files and what file managers leave behind."""
    return sorted(
        path
        for path in _visible(folder)
        if path.suffix.lower() not in suffixes and path.name.lower() not in _CLUTTER
    )


def _visible(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """``above``: the real folders that led here, into none of which a link may lead back."""
    here = folder.resolve()
    if any(other.is_relative_to(here) for other in above):
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _visible(path, (*above, here))
        elif _is_file(path):
            yield path


def _is_file(path: Path) -> bool:
    """Also of a link whose file is gone: whoever reads that says so, and it is not left out in silence."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def shown(path: Path) -> str:
    """A path that can be printed everywhere: what of it is not UTF-8, as old archives leave names, in
    numbers."""
    return os.fsencode(path).decode(errors="backslashreplace")


def readable_names(paths: Iterable[Path]) -> list[Path]:
    """The paths, sorted. ValueError for one that is not UTF-8, or that Python took for something else: no
    table of results could hold it, and all that was read by then would be lost."""
    found = sorted(paths)
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            taken = f"set PYTHONUTF8=1, Python takes names for {sys.getfilesystemencoding()} here"
            advice = taken if _is_utf8(path) else "rename it"
            raise ValueError(f"file names must be UTF-8, got {shown(path)}: {advice}") from error
    return found


def _is_utf8(path: Path) -> bool:
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """File names without their suffix; those that several files share are numbered."""
    counts = Counter(path.stem for path in paths)
    taken, names = {stem for stem, count in counts.items() if count == 1}, []
    for path in paths:
        numbered = (f"{path.stem}-{number}" for number in itertools.count(1))
        name = path.stem if counts[path.stem] == 1 else next(n for n in numbered if n not in taken)
        taken.add(name)
        names.append(name)
    return names


def pictures_in(folder: Path) -> list[Path]:
    """The files in a folder whose names say they are pictures, sorted by name."""
    return [path for path in files_in(folder) if path.suffix.lower() in PICTURE_SUFFIXES]


def names_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as a tuple; one may stand alone. ValueError for others, such as the numbers that a
    command line or YAML makes of folders called 1 and 2."""
    names = (classes,) if isinstance(classes, str) else classes
    if not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise ValueError(f'classes must be names, numbers in quotes as in ["1", "2"], got {classes!r}')
    return tuple(names)


def check_classes(classes: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The wanted classes as a tuple. ValueError unless they are distinct, some of `known`, at least one."""
    wanted = names_of(classes)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise ValueError(f"classes must be distinct and some of {tuple(known)}, got {wanted}")
    return wanted


def found_classes(records: Sequence[Record]) -> tuple[str, ...]:
    """The expressions that the records show, in canonical order, neutral last."""
    present = {record.expression for record in records}
    return tuple(name for name in (*EXPRESSIONS, NEUTRAL) if name in present)


def build_faceset(
    name: str, found: Found, *, image_size: int, channels: int, skip_bad_images: bool
) -> FaceSet:
    """Read the pictures; sources are paths relative to the root. ValueError if there is none."""
    records = found.records
    if not records:
        raise ValueError(f"no images in {found.root}")
    images = read_images(
        [record.picture or record.path for record in records],
        image_size=image_size,
        channels=channels,
        skip_bad_images=skip_bad_images,
    )
    kept = [records[i] for i in images.kept]
    labels = {expression: label for label, expression in enumerate(found.classes)}
    return FaceSet(
        name=name,
        classes=found.classes,
        images=images.pixels,
        labels=torch.tensor([labels[record.expression] for record in kept]),
        subjects=[record.subject for record in kept],
        sources=[record.name or record.path.relative_to(found.root).as_posix() for record in kept],
        skipped=images.skipped,
        notes=[*found.notes, *images.notes],
        split=[record.split for record in kept if record.split] or None,
        known_subjects=found.known_subjects,
    )
