"""`bu4dfe:FOLDER`: the texture images of BU-4DFE, sequences that rise from neutral to the apex and fall back.

Source: L. Yin et al., "A high-resolution 3D dynamic facial expression database", IEEE FG 2008.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import expression_of
from fer_mtl.data.files import Found, Record, check_classes, pictures_in, register_files, subfolders
from fer_mtl.data.sequences import BASIC, Incomplete, middle


@register_files(
    "bu4dfe",
    summary="BU-4DFE: 606 sequences of 101 subjects (58 women, 43 men), 6 expressions; pre-trains FERSNet",
    layout="F001/Angry/000.jpg; .wrl, .mtl and other files beside the pictures are not looked at",
    obtain="by licence agreement from Binghamton University (L. Yin), for research; no redistribution. "
    "Not cropped: run `fer-mtl prepare` on it first",
    labels="the folders Angry, Disgust, Fear, Happy, Sad, Surprise",
    subjects="the folder F001 or M001",
    frames="the three in the middle, around the apex",
)
def find_bu4dfe(
    root: Path, *, classes: Sequence[str] = BASIC, frames: int = 3, incomplete: str = "refuse"
) -> Found:
    """The middle frames of the sequences of the wanted classes.

    incomplete: what becomes of a sequence that lacks frames: "refuse" or "leave_out", with a note

    Raises ValueError, naming the folder, for one that is no expression and for a sequence that is too short.
    A folder that is no subject's (the viewer that comes along) is left out, with a note.
    """
    wanted = check_classes(classes, BASIC)
    records, strangers, short = [], [], Incomplete(incomplete)
    for subject in subfolders(root):
        if not re.fullmatch(r"[FM]\d{3}", subject.name):
            strangers.append(subject.name)
            continue
        for folder in subfolders(subject):
            expression = expression_of(folder.name, BASIC, str(folder))
            if expression in wanted:
                with short.sequence():
                    chosen = middle(pictures_in(folder), folder, frames)
                    records += [Record(frame, expression, subject.name) for frame in chosen]
    notes = [f"not a subject's folder, left out: {', '.join(strangers)}"] if strangers else []
    return Found(root, records, wanted, [*notes, *short.notes()])
