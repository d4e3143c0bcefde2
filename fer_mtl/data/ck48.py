"""`ck48:FOLDER`: the cropped 48 x 48 peak frames of CK+, one folder per expression.

Source: P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL, expression_of
from fer_mtl.data.files import Found, Record, check_classes, deepest, files_in, register_files, subfolders

# Subject, sequence and frame. The whole name must match, so that subject S01 is never found in S010.
FRAME_NAME = re.compile(r"(?P<subject>S\d{3})_(?P<sequence>\d{3})_(?P<frame>\d{8})\.png")
PEOPLE = "cohn-kanade"
TERMS = "CK+ is free for research by agreement (jeffcohn.net); no redistribution"


@register_files(
    "ck48",
    summary="CK+ cropped to 48 x 48: 981 grey peak frames of 327 sequences, 118 subjects, 7 expressions",
    layout="<expression>/S010_004_00000017.png (subject_sequence_frame)",
    obtain=TERMS,
    labels="the folders' names; contempt is the seventh class",
    subjects="the first part of the file name",
    frames="all that are there: the last three of each sequence",
    people=PEOPLE,
)
def find_ck48(root: Path, *, classes: Sequence[str] = EXPRESSIONS) -> Found:
    """The folders of the wanted classes; the subject is the first part of the file name.

    Raises ValueError for a class without a folder, a folder that names no expression, a file whose name
    does not follow the layout, and a sequence with two expressions.
    """
    return find_cropped(root, check_classes(classes, EXPRESSIONS), EXPRESSIONS)


def find_cropped(root: Path, classes: tuple[str, ...], known: Sequence[str]) -> Found:
    """Frames of CK+ in one folder per expression, of which the `known` ones may be there."""
    found: dict[str, Path] = {}
    for path in subfolders(root):
        name = expression_of(path.name, known, str(path))
        if name in found:
            raise ValueError(f"{root} has {name} twice, as {found[name].name} and {path.name}: keep one")
        found[name] = path
    missing = [name for name in classes if name not in found]
    if missing:
        raise ValueError(
            f"{root} has no folder for {', '.join(missing)}; found: {', '.join(found) or 'no folder'}"
        )
    records = []
    seen: dict[tuple[str, str], Record] = {}
    for name in classes:
        for path in files_in(deepest(found[name], "<expression>/*")):
            match = FRAME_NAME.fullmatch(path.name)
            if match is None:
                raise ValueError(f"{path}: the name is not like S010_004_00000017.png")
            record = Record(path, name, match["subject"])
            records.append(record)
            if name == NEUTRAL:  # every sequence begins neutral
                continue
            other = seen.setdefault((match["subject"], match["sequence"]), record)
            if other.expression != name:
                raise ValueError(f"{path} and {other.path} are of one sequence with two expressions")
    return Found(root, records, classes)
