"""What a person sees of the data: the table of data sets, one set's figures, and a contact sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Group
from rich.table import Table

from fer_mtl.data.faceset import FaceSet
from fer_mtl.data.registry import DATASETS


def datasets_table() -> Table:
    """One row per known data set, to print with rich."""
    table = Table(title="Data sets", show_lines=True)
    for heading in ("name", "what", "layout", "how to obtain"):
        table.add_column(heading)
    for info in DATASETS.values():
        name = f"{info.name}:FOLDER" if info.needs_folder else info.name
        table.add_row(name, info.summary, info.layout.replace("[", r"\["), info.obtain)
    return table


def describe(faceset: FaceSet) -> Group:
    """Summary, and images and subjects per class, to print with rich."""
    table = Table()
    for heading, justify in (
        ("expression", "left"),
        ("images", "right"),
        ("share", "right"),
        ("subjects", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    labels = faceset.labels.tolist()
    for label, (name, count) in enumerate(faceset.class_counts().items()):
        who = {s for s, own in zip(faceset.subjects, labels, strict=True) if own == label}
        table.add_row(name, str(count), f"{count / max(len(faceset), 1):.1%}", str(len(who)))
    table.add_section()
    table.add_row("all", str(len(faceset)), "", str(len(set(faceset.subjects))))
    return Group(faceset.describe().replace("[", r"\["), table)


def contact_sheet(faceset: FaceSet, path: str | Path, max_subjects: int = 12, side: int = 96) -> Path:
    """Write a PNG with a row per subject and a column per expression, the first image of each.

    max_subjects: subjects with the most expressions first; side: of each picture in pixels
    """
    images: dict[str, dict[int, int]] = {}
    for i, (subject, label) in enumerate(zip(faceset.subjects, faceset.labels.tolist(), strict=True)):
        images.setdefault(subject, {}).setdefault(label, i)
    chosen = sorted(images, key=lambda subject: -len(images[subject]))[:max_subjects]
    rows = [[images[subject].get(label) for label in range(len(faceset.classes))] for subject in chosen]
    sheet = image_grid(faceset.images, rows, side, columns=faceset.classes, labels=chosen)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    sheet.save(partial, format="PNG")
    os.replace(partial, path)
    return path


def image_grid(
    images: torch.Tensor,
    rows: Sequence[Sequence[int | None]],
    side: int,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Image.Image:
    """Pictures in a grid with headings: images uint8 [n, C, S, S], rows of indices (None leaves a gap)."""
    font = ImageFont.load_default(13)
    left = 8 + int(max((font.getlength(label) for label in labels), default=-8))
    top = 22 if columns else 0
    width = max((len(row) for row in rows), default=len(columns))
    sheet = Image.new("RGB", (left + width * side, top + len(rows) * side), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((left + (column + 0.5) * side, top / 2), name, fill="black", font=font, anchor="mm")
    for row, label in enumerate(labels):
        draw.text((4, top + (row + 0.5) * side), label, fill="black", font=font, anchor="lm")
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            if index is None:
                continue
            pixels = images[index].permute(1, 2, 0).numpy()
            face = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            sheet.paste(face.resize((side, side)), (left + column * side, top + row * side))
    return sheet
