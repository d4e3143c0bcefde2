"""`ckplus48n:FOLDER`: a 48 x 48 copy of CK+ with neutral faces, made of first frames and single peak frames.

It is cropped differently from `ck48`: the two must not be mixed in one folder or one run.
Source: P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.ck48 import PEOPLE, TERMS, find_cropped
from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL
from fer_mtl.data.files import Found, check_classes, register_files

CLASSES = (*EXPRESSIONS, NEUTRAL)


@register_files(
    "ckplus48n",
    summary="CK+ cropped to 48 x 48 with neutral: 575 neutral first and 315 peak frames, 123 subjects; "
    "309 peak frames have their own sequence's neutral frame",
    layout="<expression or neutral>/S010_004_00000019.png (subject_sequence_frame)",
    obtain=TERMS,
    labels="the folders' names; eight classes with contempt and neutral",
    subjects="the first part of the file name",
    frames="all that are there: the first of a sequence is neutral, one peak frame shows its expression",
    people=PEOPLE,
)
def find_ckplus48n(root: Path, *, classes: Sequence[str] = CLASSES) -> Found:
    """The folders of the wanted classes, as `fer_mtl.data.ck48.find_ck48` reads them, and neutral."""
    return find_cropped(root, check_classes(classes, CLASSES), CLASSES)
