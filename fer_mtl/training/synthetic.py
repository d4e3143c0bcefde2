"""Synthetic faces as training data: a manifest of JSON lines beside the pictures, one line a face.

Each line says all that is known of its face, so that a manifest can be cut or joined by hand:

    file             picture, relative to the manifest, of the side that faces are stored with
    expression       what it was drawn to show
    subject          whom it was drawn from
    source, source_expression   the real image it was drawn from
    confidence       the recogniser's probability of ``expression``
    identity         cosine of the identity network's features of source and face
    run, data, fold, seed       the run that drew it
    seen             the subjects of that data set whom this run and its judge were trained on
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.images import read_images

FIELDS = (
    "file",
    "expression",
    "subject",
    "source",
    "source_expression",
    "confidence",
    "identity",
    "run",
    "seen",
)
MANIFEST = "manifest.jsonl"


def read_manifest(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a manifest (the file, or the folder that holds ``manifest.jsonl``).

    Raises ``FileNotFoundError``, and ``ValueError`` naming file and line for one that lacks a field.
    """
    path = manifest_file(path)
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from error
        missing = [name for name in FIELDS if not isinstance(record, dict) or name not in record]
        if missing == ["seen"]:
            raise ValueError(
                f"{path}, line {number}: lacks seen, whom {record['run']} was trained on, as manifests of "
                "older versions do; run fer-mtl balance again"
            )
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {', '.join(missing)}")
        records.append(record)
    if not records:
        raise ValueError(f"{path} lists no face")
    return records


def manifest_file(path: str | Path) -> Path:
    """The manifest that ``path`` means. ``FileNotFoundError`` where there is none."""
    path = Path(path)
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no manifest of synthetic faces at {file}")
    return file


def load_synthetic(path: str | Path, like: FaceSet) -> FaceSet:
    """The faces of a manifest, with the classes, size and channels of ``like``, the real training faces.

    Raises ``ValueError`` for a face drawn from a subject who is not among those of ``like``: a synthetic face
    of a tested person in training would leak the test. Also for an expression that ``like`` does not have.
    """
    file, records = manifest_file(path), read_manifest(path)
    check_subjects({record["subject"] for record in records}, like.subjects, str(file))
    unknown = sorted({record["expression"] for record in records} - set(like.classes))
    if unknown:
        raise ValueError(f"{file} shows {', '.join(unknown)}; the data shows {', '.join(like.classes)}")
    images = read_images(
        [file.parent / record["file"] for record in records],
        image_size=like.image_size,
        channels=like.channels,
    )
    return FaceSet(
        name=f"synthetic for {like.name}",
        classes=like.classes,
        images=images.pixels,
        labels=torch.tensor([like.classes.index(record["expression"]) for record in records]),
        subjects=[record["subject"] for record in records],
        sources=[record["file"] for record in records],
    )


def check_drawn_by(path: str | Path, test_subjects: Collection[str]) -> None:
    """Raise ``ValueError`` when a face of the manifest was drawn, or chosen, by a network that knows a tested
    subject: it may pass on what it has learnt from them, whomever it redraws."""
    for record in read_manifest(path):
        if known := sorted(set(test_subjects) & set(record["seen"])):
            raise ValueError(
                f"{manifest_file(path)}: {record['file']} was drawn by {record['run']}, which (or its judge) "
                f"was trained on {len(known)} of the tested subjects: {', '.join(known[:5])}; make it from "
                "the run of the same fold"
            )


def check_subjects(drawn: Collection[str], allowed: Collection[str], where: str) -> None:
    """Raise ``ValueError`` unless all subjects whose faces were drawn are among the training subjects."""
    strangers = sorted(set(drawn) - set(allowed))
    if strangers:
        raise ValueError(
            f"{where} has faces of {len(strangers)} subjects who are not training subjects of this fold: "
            f"{', '.join(strangers[:5])}; make it from the run of the same fold"
        )


def join(first: FaceSet, second: FaceSet) -> FaceSet:
    """Both, one after the other. ``ValueError`` where classes or image shapes differ."""
    if first.classes != second.classes or first.images.shape[1:] != second.images.shape[1:]:
        raise ValueError(
            f"sets to join must agree in classes and image shape, got {first.classes} of "
            f"{list(first.images.shape[1:])} and {second.classes} of {list(second.images.shape[1:])}"
        )
    return FaceSet(
        name=first.name,
        classes=first.classes,
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
        subjects=[*first.subjects, *second.subjects],
        sources=[*first.sources, *second.sources],
        skipped=[*first.skipped, *second.skipped],
        notes=[*first.notes, *second.notes],
    )
