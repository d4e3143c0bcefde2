"""`oulu_casia:FOLDER`: Oulu-CASIA, visible light, strong illumination: sequences from neutral to the apex.

Source: G. Zhao et al., "Facial expression recognition from near-infrared videos", Image and Vision Computing
29(9), 2011.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import NEUTRAL, expression_of
from fer_mtl.data.files import (
    Found,
    Record,
    check_classes,
    part_of,
    pictures_in,
    register_files,
    subfolders,
)  # fmt: skip
from fer_mtl.data.sequences import BASIC, Incomplete, onset_to_apex

PLACES = (
    "VL/Strong", "OriginalImg/VL/Strong", "B_OriginalImg/OriginalImg/VL/Strong",
    "VL_Acropped/Strong", "PreProcessImg/VL_Acropped/Strong", "PreProcess_Img/VL_Acropped/Strong",
    "PreProcess Img/PreProcessImg/VL_Acropped/Strong", "Strong",
)  # fmt: skip


@register_files(
    "oulu_casia",
    summary="Oulu-CASIA, visible light, strong: 480 sequences of 80 subjects, 6 expressions",
    layout="OriginalImg/VL/Strong/P001/Anger/000.jpeg, or VL_Acropped/Strong/P001/Anger/000.jpeg",
    obtain="by licence agreement from the University of Oulu (CMVS), for research; no redistribution. "
    "OriginalImg is not cropped: run `fer-mtl prepare` on it first",
    labels="the folders Anger, Disgust, Fear, Happiness, Sadness, Surprise",
    subjects="the folder P001",
    frames="the last three of each sequence; with neutral among the classes also its first, as neutral",
)
def find_oulu_casia(
    root: Path, *, classes: Sequence[str] = BASIC, frames: int = 3, incomplete: str = "refuse"
) -> Found:
    """The sequences of the wanted classes.

    classes: some of the six basic expressions, and neutral for the first frames
    frames: how many at the end of a sequence show its expression
    incomplete: what becomes of a sequence that lacks frames: "refuse" or "leave_out", with a note

    Raises ValueError, naming the folder, for one that is no subject or no expression, a sequence that is too
    short, and both the original and the cropped images in one folder.
    """
    wanted = check_classes(classes, (*BASIC, NEUTRAL))
    records, short = [], Incomplete(incomplete)
    for subject in subfolders(part_of(root, PLACES, "visible-light images")):
        if not re.fullmatch(r"P\d{3}", subject.name):
            raise ValueError(f"{subject} is not a subject's folder, such as P001")
        for folder in subfolders(subject):
            expression = expression_of(folder.name, BASIC, str(folder))
            if expression not in wanted:
                continue
            sequence = _frames(folder)
            begins = bool(sequence) and int(sequence[0].stem) == 0
            with short.sequence():
                chosen = onset_to_apex(sequence, folder, expression, wanted, frames, begins)
                records += [Record(frame, shown, subject.name) for frame, shown in chosen]
    return Found(root, records, wanted, short.notes())


def _frames(folder: Path) -> list[Path]:
    frames = pictures_in(folder)
    for path in frames:
        if not path.stem.isdigit():
            raise ValueError(f"{path}: the name of a frame is not a number, such as 000.jpeg")
    return sorted(frames, key=lambda path: int(path.stem))
