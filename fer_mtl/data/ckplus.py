"""`ckplus:FOLDER`: CK+ as its owners distribute it, sequences from neutral to the apex and their labels.

Source: P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.ck48 import FRAME_NAME, PEOPLE, TERMS
from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL
from fer_mtl.data.files import (
    Found,
    Record,
    check_classes,
    files_in,
    pictures_in,
    register_files,
    subfolders,
)  # fmt: skip
from fer_mtl.data.sequences import BASIC, Incomplete, IncompleteSequence, onset_to_apex
from fer_mtl.data.tables import code, read_label
from fer_mtl.words import counted

CODES = {1: "anger", 2: "contempt", 3: "disgust", 4: "fear", 5: "happiness", 6: "sadness", 7: "surprise"}
SEVENTH = {"contempt": EXPRESSIONS, NEUTRAL: (*BASIC, NEUTRAL), "none": BASIC}
IMAGES, LABELS = "cohn-kanade-images", "Emotion"


@register_files(
    "ckplus",
    summary="CK+ in full: 593 sequences of 123 subjects, 327 of them labelled with one of 7 expressions",
    layout="cohn-kanade-images/S005/001/S005_001_00000001.png and "
    "Emotion/S005/001/S005_001_00000011_emotion.txt",
    obtain=TERMS + ". The frames are not cropped: run `fer-mtl prepare` on them first",
    labels="in *_emotion.txt: 1 anger, 2 contempt, 3 disgust, 4 fear, 5 happiness, 6 sadness, 7 surprise",
    subjects="the folder S005",
    frames="the last three of a labelled sequence; with seventh=neutral also its first, as neutral",
    people=PEOPLE,
)
def find_ckplus(
    root: Path,
    *,
    seventh: str = "contempt",
    classes: Sequence[str] | None = None,
    frames: int = 3,
    incomplete: str = "refuse",
) -> Found:
    """The labelled sequences of the wanted classes.

    seventh: "contempt" (the usual seven), "neutral" (the six basic ones and the first frames as neutral) or
        "none" (the six basic ones)
    classes: instead of `seventh`, any of the seven and neutral, in the order of the labels
    frames: how many at the end of a sequence show its expression
    incomplete: what becomes of a sequence that lacks frames: "refuse" or "leave_out", with a note

    Raises ValueError, naming file or folder, where images and labels disagree: a label without its sequence,
    in another sequence's folder, for a frame that is not there, two labels, a code that means nothing.
    """
    if seventh not in SEVENTH:
        raise ValueError(f"seventh must be one of {tuple(SEVENTH)}, got {seventh!r}")
    wanted = SEVENTH[seventh] if classes is None else check_classes(classes, (*EXPRESSIONS, NEUTRAL))
    short = Incomplete(incomplete)
    images, labels = root / IMAGES, root / LABELS
    for folder in (images, labels):
        if not folder.is_dir():
            raise ValueError(f"{root} has no folder {folder.name}; expected {IMAGES} and {LABELS} in it")
    records, unlabelled, others = [], 0, 0
    for subject in subfolders(images):
        for folder in subfolders(subject):
            label = _label(labels / subject.name / folder.name)
            if label is None:
                unlabelled += 1
                continue
            path, expression = label
            if expression not in wanted:
                others += 1
                continue
            sequence = _sequence(folder)
            with short.sequence():
                if path.name.removesuffix("_emotion.txt") + ".png" not in [frame.name for frame in sequence]:
                    raise IncompleteSequence(f"{path} labels a frame that is not in {folder}")
                chosen = onset_to_apex(sequence, folder, expression, wanted, frames, _begins(sequence))
                records += [Record(frame, shown, subject.name) for frame, shown in chosen]
    _refuse_lonely_labels(labels, images)
    notes = [f"{counted(unlabelled, 'sequence')} without a label left out"] if unlabelled else []
    if others:
        notes.append(
            f"{counted(others, 'sequence')} with other expressions than {', '.join(wanted)} left out"
        )
    return Found(root, records, wanted, [*notes, *short.notes()])


def _label(folder: Path) -> tuple[Path, str] | None:
    """The label file of a sequence and what it says; unlabelled sequences have an empty folder or none."""
    files = files_in(folder) if folder.is_dir() else []
    if not files:
        return None
    if len(files) > 1:
        raise ValueError(
            f"{folder} has {len(files)} label files, expected one: {files[0].name}, {files[1].name}"
        )
    path = files[0]
    if not path.name.startswith(f"{folder.parent.name}_{folder.name}_"):
        raise ValueError(f"{path} is the label of another sequence than its folder's")
    return path, CODES[code(read_label(path).strip(), str(path), "the label", CODES)]


def _sequence(folder: Path) -> list[Path]:
    frames = pictures_in(folder)
    for path in frames:
        match = FRAME_NAME.fullmatch(path.name)
        if match is None or (match["subject"], match["sequence"]) != (folder.parent.name, folder.name):
            raise ValueError(f"{path}: the name is not like {folder.parent.name}_{folder.name}_00000001.png")
    return frames


def _begins(sequence: list[Path]) -> bool:
    return bool(sequence) and sequence[0].stem.endswith("_00000001")


def _refuse_lonely_labels(labels: Path, images: Path) -> None:
    for subject in subfolders(labels):
        for folder in subfolders(subject):
            if files_in(folder) and not (images / subject.name / folder.name).is_dir():
                raise ValueError(f"{files_in(folder)[0]} labels a sequence that is not in {images}")
