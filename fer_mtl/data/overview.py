"""What a person sees of the data: the table of data sets, a set's card and figures, and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from rich.console import Group
from rich.table import Table

from fer_mtl.data.check import Findings
from fer_mtl.data.faceset import FaceSet
from fer_mtl.data.registry import DATASETS, DataSetInfo
from fer_mtl.files import replacing
from fer_mtl.fonts import pillow_font
from fer_mtl.words import counted

_LISTED = 20  # leaks that are listed; the number of all of them is always given


def datasets_table() -> Table:
    """One row per known data set, to print with rich."""
    table = Table(title="Data sets", show_lines=True)
    for heading in ("name", "what", "layout", "how to obtain"):
        table.add_column(heading, overflow="fold")
    for info in DATASETS.values():
        name = f"{info.name}:FOLDER" if info.needs_folder else info.name
        table.add_row(name, info.summary, info.layout.replace("[", r"\["), info.obtain)
    return table


def card(info: DataSetInfo) -> Table:
    """All that is known of one data set, to print with rich."""
    table = Table(title=f"{info.name}:FOLDER" if info.needs_folder else info.name, show_header=False)
    rows = {
        "what": info.summary,
        "layout": info.layout,
        "how to obtain": info.obtain,
        "labels": info.labels,
        "subjects": info.subjects,
        "frames": info.frames,
        "options": "\n".join(f"{name} = {default!r}" for name, default in info.options().items()),
    }
    for heading, text in rows.items():
        if text:
            table.add_row(heading, text.replace("[", r"\["))
    return table


def describe_findings(findings: Findings) -> str:
    """What a check found, as plain text."""
    exact = near = "not looked for"
    if findings.exact is not None:
        exact = counted(sum(len(group) - 1 for group in findings.exact), "picture")
    if findings.near is not None:
        near = counted(len(findings.near), "pair")
    lines = [f"equal to another picture: {exact}; nearly equal: {near}"]
    for name, found in (("leak", findings.leaks), ("problem", findings.problems)):
        lines.append(f"{counted(len(found), name)}" + (":" if found else ""))
        lines += [f"  {line}" for line in found[:_LISTED]]
        if len(found) > _LISTED:
            lines.append(f"  and {len(found) - _LISTED} more")
    return "\n".join(lines)


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

    Where the set does not tell who is who, the rows are the first pictures of each expression.
    """
    if not faceset.known_subjects:
        columns = [
            (faceset.labels == label).nonzero().flatten().tolist() for label in range(len(faceset.classes))
        ]
        rows = [list(row) for row in zip_longest(*(column[:max_subjects] for column in columns))]
        return _save(image_grid(faceset.images, rows, side, columns=faceset.classes), path)
    images: dict[str, dict[int, int]] = {}
    for i, (subject, label) in enumerate(zip(faceset.subjects, faceset.labels.tolist(), strict=True)):
        images.setdefault(subject, {}).setdefault(label, i)
    chosen = sorted(images, key=lambda subject: -len(images[subject]))[:max_subjects]
    rows = [[images[subject].get(label) for label in range(len(faceset.classes))] for subject in chosen]
    return _save(image_grid(faceset.images, rows, side, columns=faceset.classes, labels=chosen), path)


def _save(sheet: Image.Image, path: str | Path) -> Path:
    """Write a PNG that appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        sheet.save(file, format="PNG")
    return path


def image_grid(
    images: torch.Tensor,
    rows: Sequence[Sequence[int | None]],
    side: int,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Image.Image:
    """Pictures in a grid with headings: images uint8 [n, C, S, S], rows of indices (None leaves a gap)."""
    fonts = {name: pillow_font(name, 13) for name in (*columns, *labels)}
    left = 8 + int(max((fonts[label].getlength(label) for label in labels), default=-8))
    top = 22 if columns else 0
    width = max((len(row) for row in rows), default=len(columns))
    sheet = Image.new("RGB", (left + width * side, top + len(rows) * side), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((left + (column + 0.5) * side, top / 2), name, fill="black", font=fonts[name], anchor="mm")
    for row, label in enumerate(labels):
        draw.text((4, top + (row + 0.5) * side), label, fill="black", font=fonts[label], anchor="lm")
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            if index is None:
                continue
            pixels = images[index].permute(1, 2, 0).numpy()
            face = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            sheet.paste(face.resize((side, side)), (left + column * side, top + row * side))
    return sheet
