"""`ck48:FOLDER`: the cropped 48 x 48 peak frames of CK+, one folder per expression.

Source: P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import EXPRESSIONS, expression_of
from fer_mtl.data.faceset import FaceSet
from fer_mtl.data.files import Record, build_faceset, data_folder, files_in, subfolders
from fer_mtl.data.registry import register

# Subject, sequence and frame. The whole name must match, so that subject S01 is never found in S010.
_NAME = re.compile(r"(?P<subject>S\d{3})_(?P<sequence>\d{3})_(?P<frame>\d{8})\.png")


@register(
    "ck48",
    summary="CK+ cropped to 48 x 48: 981 grey peak frames of 327 sequences, 118 subjects, 7 expressions",
    layout="<expression>/S010_004_00000017.png (subject_sequence_frame)",
    obtain="CK+ is free for research by agreement (jeffcohn.net); no redistribution",
)
def load_ck48(
    folder: str | Path,
    *,
    image_size: int,
    channels: int = 3,
    skip_bad_images: bool = False,
    classes: Sequence[str] = EXPRESSIONS,
) -> FaceSet:
    """Read the folders of the wanted classes; the subject is the first part of the file name.

    Raises ValueError for a class without a folder, a folder that names no expression, or a file whose name
    does not follow the layout.
    """
    root = data_folder(folder, "ck48")
    found = {expression_of(path.name, EXPRESSIONS, str(path)): path for path in subfolders(root)}
    missing = [name for name in classes if name not in found]
    if missing:
        raise ValueError(
            f"{root} has no folder for {', '.join(missing)}; found: {', '.join(found) or 'no folder'}"
        )
    records = []
    for name in classes:
        for path in files_in(found[name]):
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise ValueError(f"{path}: the name is not like S010_004_00000017.png")
            records.append(Record(path, name, match["subject"]))
    return build_faceset(
        "ck48", root, records, classes,
        image_size=image_size, channels=channels, skip_bad_images=skip_bad_images,
    )  # fmt: skip
