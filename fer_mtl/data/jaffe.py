"""`jaffe:FOLDER`: the Japanese Female Facial Expression set, labels and subjects in the file names.

Source: M. Lyons et al., "Coding facial expressions with Gabor wavelets", IEEE FG 1998.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import NEUTRAL
from fer_mtl.data.files import Found, Record, check_classes, part_of, pictures_in, register_files
from fer_mtl.data.sequences import BASIC

CODES = {
    "AN": "anger", "DI": "disgust", "FE": "fear", "HA": "happiness", "SA": "sadness", "SU": "surprise",
    "NE": NEUTRAL,
}  # fmt: skip
_NAME = re.compile(rf"(?P<subject>[A-Z]{{2}})\.(?P<code>{'|'.join(CODES)})\d\.\d+\.tiff?", re.IGNORECASE)


@register_files(
    "jaffe",
    summary="JAFFE: 213 grey images of 10 Japanese women, 6 expressions and neutral",
    layout="KA.AN1.39.tiff (subject.expression and take.number), in FOLDER or in jaffe/",
    obtain="from zenodo.org (record 3451524) for non-commercial research; no redistribution",
    labels="code in the file name: AN, DI, FE, HA, SA, SU, NE (neutral)",
    subjects="the two letters that begin the file name",
    frames="single images",
)
def find_jaffe(root: Path, *, classes: Sequence[str] = (*BASIC, NEUTRAL)) -> Found:
    """All images of the wanted classes. ValueError for a picture whose name does not follow the layout."""
    wanted = check_classes(classes, tuple(CODES.values()))
    folder = part_of(root, ["jaffe"], "images") if (root / "jaffe").is_dir() else root
    records = []
    for path in pictures_in(folder):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path}: the name is not like KA.AN1.39.tiff")
        expression = CODES[match["code"].upper()]
        if expression in wanted:
            records.append(Record(path, expression, match["subject"].upper()))
    return Found(root, records, wanted)
