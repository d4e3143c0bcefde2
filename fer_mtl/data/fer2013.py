"""`fer2013:FOLDER`: FER2013, a table or folders of pictures, with its official parts.

Source: I. Goodfellow et al., "Challenges in representation learning", ICONIP 2013.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fer_mtl.data.expressions import NEUTRAL, expression_of
from fer_mtl.data.files import (
    Found,
    Record,
    check_classes,
    deepest,
    files_in,
    pictures_in,
    register_files,
    subfolders,
)  # fmt: skip
from fer_mtl.data.images import ImageError
from fer_mtl.data.sequences import BASIC
from fer_mtl.data.tables import code, read_table

CLASSES = (*BASIC, NEUTRAL)
CODES = {
    0: "anger", 1: "disgust", 2: "fear", 3: "happiness", 4: "sadness", 5: "surprise", 6: NEUTRAL,
}  # fmt: skip
USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
TABLES = ("fer2013.csv", "icml_face_data.csv")
FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
SIDE = 48


@dataclass(frozen=True)
class Row:
    """A picture written as numbers in a table: 48 x 48 grey levels, line after line."""

    where: str
    pixels: str

    def open(self) -> Image.Image:
        try:
            levels = np.array(self.pixels.split(), dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise ImageError(f"{self.where}: pixels must be whole numbers ({error})") from error
        if levels.size != SIDE * SIDE or levels.min() < 0 or levels.max() > 255:
            raise ImageError(
                f"{self.where}: pixels must be {SIDE * SIDE} numbers from 0 to 255, got {levels.size}"
                + (f" from {levels.min()} to {levels.max()}" if levels.size else "")
            )
        return Image.fromarray(levels.astype(np.uint8).reshape(SIDE, SIDE))


@register_files(
    "fer2013",
    summary="FER2013: 35,887 grey faces of 48 x 48 from the web, 6 expressions and neutral",
    layout="fer2013.csv (emotion,pixels,Usage) or icml_face_data.csv; or train/angry/*, test/angry/*",
    obtain="from the Kaggle challenge on facial expression recognition, under its rules",
    labels="code in the table: 0 anger, 1 disgust, 2 fear, 3 happiness, 4 sadness, 5 surprise, 6 neutral; or "
    "the folders' names",
    subjects="not known; use the official split: fold_rule official (Training; PublicTest to validate; "
    "PrivateTest to test)",
    frames="single images",
)
def find_fer2013(root: Path, *, classes: Sequence[str] = CLASSES) -> Found:
    """The images of the wanted classes.

    Raises ValueError, naming line or file, for a table without its columns, an unknown code or usage, a
    table and folders at once, and a file such as Training_1.jpg in the folder of another part.
    """
    wanted = check_classes(classes, CLASSES)
    tables = [name for name in TABLES if (root / name).is_file()]
    parts: dict[str, Path] = {}
    for folder in subfolders(root):
        if (part := FOLDERS.get(folder.name.lower())) is None:
            continue
        if part in parts:
            raise ValueError(
                f"{root} has the {part} part twice, as {parts[part].name} and {folder.name}: keep one"
            )
        parts[part] = folder
    if bool(tables) == bool(parts) or len(tables) > 1:
        there = ", ".join([*tables, *(p.name for p in parts.values())]) or "neither"
        raise ValueError(
            f"{root} must hold one of {', '.join(TABLES)} or the folders train and test, got {there}"
        )
    records = (
        [
            Record(root / tables[0], CODES[emotion], name, split, row, name)
            for name, split, emotion, row in read_rows(root / tables[0])
        ]
        if tables
        else [record for split, folder in parts.items() for record in _folder_records(root, folder, split)]
    )
    return Found(root, [r for r in records if r.expression in wanted], wanted, known_subjects=False)


def read_rows(table: Path) -> Iterator[tuple[str, str, int, Row]]:
    """Name ("fer0000000", as FERPlus calls it), part, code of the expression and picture of every row."""
    for i, (where, row) in enumerate(read_table(table, ("emotion", "pixels", "Usage"))):
        if row["Usage"] not in USAGE:
            raise ValueError(f"{where}: Usage must be one of {', '.join(USAGE)}, got {row['Usage']!r}")
        yield (
            f"fer{i:07d}",
            USAGE[row["Usage"]],
            code(row["emotion"], where, "emotion", CODES),
            Row(where, row["pixels"]),
        )


def _folder_records(root: Path, folder: Path, split: str) -> list[Record]:
    for path in pictures_in(folder):
        raise ValueError(f"{path} is a picture between the expressions' folders (train/<expression>/*)")
    records = []
    for inner in subfolders(folder):
        expression = expression_of(inner.name, CLASSES, str(inner))
        for path in files_in(deepest(inner, "train/<expression>/*")):
            own = USAGE.get(path.name.partition("_")[0], split)
            # The usual copy keeps both official test parts in `test`; the file names tell them apart.
            if own != split and not (split == "test" and own == "validation"):
                raise ValueError(f"{path} belongs to the {own} part, but lies in {folder.name}")
            records.append(Record(path, expression, path.relative_to(root).as_posix(), own))
    return records
