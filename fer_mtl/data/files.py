"""What the data sets made of files share: listing folders, and turning labelled paths into a FaceSet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fer_mtl.data.faceset import FaceSet
from fer_mtl.data.images import read_images

_CLUTTER = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Record:
    """One labelled picture file."""

    path: Path
    expression: str
    subject: str


def data_folder(folder: str | Path, name: str) -> Path:
    """The folder as a Path; FileNotFoundError or NotADirectoryError naming it where it is none."""
    path = Path(folder).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"data folder of {name!r} does not exist: {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"data folder of {name!r} is not a folder: {path}")
    return path


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def files_in(folder: Path) -> list[Path]:
    """The files in a folder, sorted by name, without hidden ones and what file managers leave behind."""
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_file() and not p.name.startswith(".") and p.name.lower() not in _CLUTTER
    )


def build_faceset(
    name: str,
    folder: Path,
    records: Sequence[Record],
    classes: Sequence[str],
    *,
    image_size: int,
    channels: int,
    skip_bad_images: bool,
) -> FaceSet:
    """Read the records' pictures; sources are paths relative to the folder. ValueError if there is none."""
    if not records:
        raise ValueError(f"no images in {folder}")
    images = read_images(
        [record.path for record in records],
        image_size=image_size,
        channels=channels,
        skip_bad_images=skip_bad_images,
    )
    kept = [records[i] for i in images.kept]
    return FaceSet(
        name=name,
        classes=tuple(classes),
        images=images.pixels,
        labels=torch.tensor([list(classes).index(record.expression) for record in kept]),
        subjects=[record.subject for record in kept],
        sources=[record.path.relative_to(folder).as_posix() for record in kept],
        skipped=images.skipped,
        notes=images.notes,
    )
