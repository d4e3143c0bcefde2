"""`ferplus:FOLDER`: FERPlus, the votes of ten people on every face of FER2013.

Source: E. Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL
from fer_mtl.data.fer2013 import USAGE, read_rows
from fer_mtl.data.files import Found, Record, check_classes, register_files
from fer_mtl.data.images import Picture
from fer_mtl.data.tables import number, read_table
from fer_mtl.words import counted

CLASSES = (*EXPRESSIONS, NEUTRAL)
EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTES = (*EMOTIONS, "unknown", "NF")  # NF: not a face
RULES = ("majority", "plurality")
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


@register_files(
    "ferplus",
    summary="FERPlus: the faces of FER2013 with ten votes each, 7 expressions and neutral",
    layout="fer2013new.csv (Usage,Image name,neutral,...,NF) with fer2013.csv, or with the pictures "
    "FER2013Train/fer0000000.png, FER2013Valid/*, FER2013Test/* (also under images/ or data/)",
    obtain="labels from github.com/microsoft/FERPlus (MIT licence); pictures as for fer2013",
    labels="the expression with more than half of the votes (rule=plurality: with more than any other); rows "
    "without one, won by unknown or NF, or without an image name are left out and counted",
    subjects="not known; use the official split, as for fer2013",
    frames="single images",
    people="fer2013",
)
def find_ferplus(root: Path, *, classes: Sequence[str] = CLASSES, rule: str = "majority") -> Found:
    """The faces on whose expression the voters agree.

    rule: "majority" (more than half of all votes) or "plurality" (more than any other)

    Raises ValueError, naming line or file, for tables that do not fit together, missing columns, votes that
    are no numbers and a picture that is listed twice.
    """
    wanted = check_classes(classes, CLASSES)
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    votes = root / "fer2013new.csv"
    if not votes.is_file():
        raise ValueError(f"{root} has no fer2013new.csv")
    base = next(
        (p for p in (root, root / "images", root / "data") if (p / FOLDERS["Training"]).is_dir()), None
    )
    pixels = None if base else _pixels(root)
    records, left_out, count, seen = [], Counter[str](), 0, dict[str, str]()
    for i, (where, row) in enumerate(read_table(votes, ("Usage", "Image name", *VOTES))):
        count += 1
        usage, name = row["Usage"], row["Image name"]
        if usage not in USAGE:
            raise ValueError(f"{where}: Usage must be one of {', '.join(USAGE)}, got {usage!r}")
        if not name:
            left_out["without an image name"] += 1
            continue
        if name in seen:
            raise ValueError(f"{where}: {name} is listed already in {seen[name]}")
        seen[name] = where
        expression = _winner({v: number(row[v], where, v) for v in VOTES}, rule)
        if expression not in EMOTIONS:
            left_out["without agreement on an expression"] += 1
            continue
        path, picture = votes, None
        if base is not None:
            path = base / FOLDERS[usage] / name
            source = path.relative_to(root).as_posix()
        else:
            if pixels is None or i >= len(pixels) or pixels[i][0] != USAGE[usage]:
                raise ValueError(
                    f"{where} does not fit row {i + 1} of fer2013.csv: the two must have the same rows"
                )
            picture, source = pixels[i][1], name
        if expression in wanted:
            # The subject is the picture, called as in fer2013.csv whatever folder it lies in.
            records.append(Record(path, expression, Path(name).stem, USAGE[usage], picture, source))
    if pixels is not None and count != len(pixels):
        raise ValueError(
            f"{votes} has {count} rows, fer2013.csv {len(pixels)}: the two must have the same rows"
        )
    notes = [f"{counted(n, 'row')} of {count} {why} left out" for why, n in left_out.items()]
    return Found(root, records, wanted, notes, known_subjects=False)


def _pixels(root: Path) -> list[tuple[str, Picture]]:
    table = root / "fer2013.csv"
    if not table.is_file():
        raise ValueError(
            f"{root} has labels but no pictures: put fer2013.csv or the folder {FOLDERS['Training']} there"
        )
    return [(split, row) for _, split, _, row in read_rows(table)]


def _winner(votes: dict[str, float], rule: str) -> str | None:
    """The column that won, if any."""
    (first, most), (_, second) = Counter(votes).most_common(2)
    return first if most > (sum(votes.values()) / 2 if rule == "majority" else second) else None
