"""A document of titled parts, each with a table and a picture, as HTML, Markdown and CSV from one source."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from fer_mtl.evaluation import html
from fer_mtl.evaluation.plots import to_png
from fer_mtl.files import write_bytes, write_text


@dataclass(frozen=True)
class Table:
    """``rows`` under ``header``; ``numbers`` are the columns set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class Part:
    """``name`` (of its files), ``title``, a sentence on how to read it, and what there is of the rest."""

    name: str
    title: str
    lead: str = ""
    lines: Sequence[str] = ()
    table: Table | None = None
    figures: dict[str, Figure] = field(default_factory=dict)
    """Pictures by caption."""


def write_document(folder: Path, title: str, lead: str, parts: Sequence[Part]) -> None:
    """Write report.html (self-contained), report.md, pictures/ and a CSV file for every table in tables/."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "tables").mkdir(exist_ok=True)
    sections, text = [], [f"# {title}", lead]
    for part in parts:
        body, text = [], [*text, f"## {part.title}", *([part.lead] if part.lead else [])]
        if part.lines:
            body.append(html.bullets(part.lines))
            text.append("\n".join(f"- {line}" for line in part.lines))
        for number, (caption, figure) in enumerate(part.figures.items()):
            png, file = to_png(figure), f"pictures/{part.name}{f'-{number}' if number else ''}.png"
            write_bytes(folder / file, png)
            if len(part.figures) > 1:
                body.append(html.caption(caption))
            body.append(html.picture(png, caption))
            text.append(f"![{caption}]({file})")
        if part.table is not None:
            body.append(html.table(part.table.rows, part.table.header, part.table.numbers))
            text.append(markdown(part.table))
            write_text(folder / "tables" / f"{part.name}.csv", as_csv(part.table))
        sections.append(html.section(part.title, part.lead, *body))
    write_text(folder / "report.html", html.page(title, lead, *sections))
    write_text(folder / "report.md", "\n\n".join(text) + "\n")


def markdown(table: Table) -> str:
    """A table of GitHub's Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if i in table.numbers else "---" for i in range(len(table.header))]
    return "\n".join([line(table.header), line(rule), *map(line, table.rows)])


def as_csv(table: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
    return text.getvalue()
