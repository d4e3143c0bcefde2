"""`rafdb:FOLDER`: RAF-DB, single-label subset, with its official training and test parts.

Source: S. Li, W. Deng, J. Du, "Reliable crowdsourcing and deep locality-preserving learning for expression
recognition in the wild", CVPR 2017.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import NEUTRAL
from fer_mtl.data.files import Found, Record, check_classes, part_of, pictures_in, register_files
from fer_mtl.data.sequences import BASIC
from fer_mtl.data.tables import code, read_label

CODES = {
    1: "surprise", 2: "fear", 3: "disgust", 4: "happiness", 5: "sadness", 6: "anger", 7: NEUTRAL,
}  # fmt: skip
SUFFIX = {"aligned": "_aligned.jpg", "original": ".jpg"}


@register_files(
    "rafdb",
    summary="RAF-DB basic: 12,271 faces from the web to train and 3,068 to test, 6 expressions and neutral",
    layout="[basic/]EmoLabel/list_patition_label.txt and [basic/]Image/aligned/train_00001_aligned.jpg",
    obtain="on request from whdeng.cn/raf for non-commercial research; no redistribution",
    labels="code in the list: 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral",
    subjects="not known; use the official split (train_*, test_*): fold_rule official",
    frames="single images",
)
def find_rafdb(root: Path, *, classes: Sequence[str] = (*BASIC, NEUTRAL), images: str = "aligned") -> Found:
    """The listed images of the wanted classes.

    images: "aligned" (100 x 100, as distributed) or "original" (run `fer-mtl prepare` on them first)

    Raises ValueError, naming line or file, for a list that says anything else than NAME CODE or names an
    image twice, and for an image that is not in the list. One that is not there shows when it is read.
    """
    if images not in SUFFIX:
        raise ValueError(f"images must be one of {tuple(SUFFIX)}, got {images!r}")
    wanted = check_classes(classes, tuple(CODES.values()))
    base = root / "basic" if (root / "basic").is_dir() else root
    list_file = part_of(
        base, ["EmoLabel/list_patition_label.txt", "EmoLabel/list_partition_label.txt"], "list of labels"
    )
    folder = part_of(base, [f"Image/{images}"], f"{images} images")
    labels: dict[str, str] = {}
    for i, line in enumerate(read_label(list_file).splitlines(), start=1):
        where = f"{list_file}, line {i}"
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*((?:train|test)_\d+)\.jpg\s+(\S+)\s*", line)
        if match is None:
            raise ValueError(f"{where}: expected 'train_00001.jpg 5' or the like, got {line.strip()[:80]!r}")
        name = match[1] + SUFFIX[images]
        if name in labels:
            raise ValueError(f"{where}: {match[1]}.jpg is listed twice")
        labels[name] = CODES[code(match[2], where, "the label", CODES)]
    strangers = sorted({path.name for path in pictures_in(folder)} - set(labels))
    if strangers:
        raise ValueError(
            f"{len(strangers)} of the images in {folder} are not in {list_file}, such as {strangers[0]}"
        )
    records = [
        Record(folder / name, expression, name, name.partition("_")[0])
        for name, expression in labels.items()
        if expression in wanted
    ]
    return Found(root, records, wanted, known_subjects=False)
