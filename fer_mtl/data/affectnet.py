"""`affectnet7:FOLDER` and `affectnet8:FOLDER`: AffectNet's manually annotated part, from its tables.

Source: A. Mollahosseini, B. Hasani, M. Mahoor, "AffectNet: a database for facial expression, valence, and
arousal computing in the wild", IEEE Transactions on Affective Computing 10(1), 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL
from fer_mtl.data.files import PREPARED, Found, Record, check_classes, register_files
from fer_mtl.data.images import Cropped
from fer_mtl.data.sequences import BASIC
from fer_mtl.data.tables import code, number, read_table
from fer_mtl.words import counted

CODES = {
    0: NEUTRAL, 1: "happiness", 2: "sadness", 3: "surprise", 4: "fear", 5: "disgust", 6: "anger",
    7: "contempt", 8: "none", 9: "uncertain", 10: "no face",
}  # fmt: skip
COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks",
    "expression", "valence", "arousal",
)  # fmt: skip
TABLES = {"training.csv": "train", "validation.csv": "test"}
IMAGES = "Manually_Annotated_Images"
SEVEN, EIGHT = (*BASIC, NEUTRAL), (*EXPRESSIONS, NEUTRAL)

_ABOUT = {
    "layout": f"training.csv, validation.csv and {IMAGES}/689/<name>.jpg (or 689/ in FOLDER itself)",
    "obtain": "on request from mohammadmahoor.com/affectnet for non-commercial research; no redistribution",
    "subjects": "not known; use the official split: fold_rule official (validation.csv is the test part, as "
    "the set's own test part was never published)",
    "people": "affectnet",
    "frames": "single images, cut to the face's box in the table; whole where `fer-mtl prepare` made them or "
    "with boxes=false (already cropped)",
}
_CODES = "code in the tables: 0 neutral, 1 happiness, 2 sadness, 3 surprise, 4 fear, 5 disgust, 6 anger"


@register_files(
    "affectnet7",
    summary="AffectNet without contempt: 283,901 faces from the web to train, 3,500 to test, 7 classes",
    labels=f"{_CODES}; others are left out and counted",
    **_ABOUT,
)
def find_affectnet7(root: Path, *, classes: Sequence[str] = SEVEN, boxes: bool = True) -> Found:
    """The pictures of the six basic expressions and neutral; see `find_affectnet`."""
    return find_affectnet(root, check_classes(classes, SEVEN), boxes)


@register_files(
    "affectnet8",
    summary="AffectNet: 287,651 faces from the web to train, 4,000 to test, 8 classes",
    labels=f"{_CODES}, 7 contempt; others are left out and counted",
    **_ABOUT,
)
def find_affectnet8(root: Path, *, classes: Sequence[str] = EIGHT, boxes: bool = True) -> Found:
    """The pictures of the seven expressions and neutral; see `find_affectnet`."""
    return find_affectnet(root, check_classes(classes, EIGHT), boxes)


def find_affectnet(root: Path, classes: tuple[str, ...], boxes: bool) -> Found:
    """The listed pictures of the classes, cut to their boxes unless told otherwise or prepared.

    Raises ValueError, naming the line, for missing columns, codes or boxes that mean nothing and a picture
    that is listed twice. A picture that is not there shows when it is read.
    """
    images = root / IMAGES if (root / IMAGES).is_dir() else root
    records, left_out = [], 0
    # The tables are copied to prepared faces, but their boxes are places in the original pictures.
    prepared = boxes and any((folder / PREPARED).is_dir() for folder in (root, images))
    boxes = boxes and not prepared
    seen: dict[str, str] = {}
    for name, split in TABLES.items():
        if not (root / name).is_file():
            raise ValueError(f"{root} has no {name}; expected {' and '.join(TABLES)} in it")
        # validation.csv comes without a header in the original distribution.
        for where, row in read_table(root / name, COLUMNS, optional_header=True):
            expression = CODES[code(row["expression"], where, "expression", CODES)]
            if expression not in classes:
                left_out += 1
                continue
            source = row["subDirectory_filePath"].replace("\\", "/")
            if source in seen:
                raise ValueError(f"{where}: {source} is listed already in {seen[source]}")
            seen[source] = where
            path = images / source
            box = [number(row[column], where, column) for column in COLUMNS[1:5]] if boxes else None
            if box and min(box[2:]) <= 0:
                raise ValueError(f"{where}: the face's box must have a positive size, got {box}")
            records.append(Record(path, expression, source, split, Cropped(path, *box) if box else None))
    notes = [f"{counted(left_out, 'row')} with other labels left out"] if left_out else []
    if prepared:
        notes.append("faces that fer-mtl prepare has cut out: the tables' boxes are not applied to them")
    return Found(root, records, classes, notes, known_subjects=False)
