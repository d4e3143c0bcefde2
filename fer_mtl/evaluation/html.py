"""A page as one self-contained HTML file: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root { --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --paper: #ffffff; --back: #f5f7fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
       font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 14px; max-width: 75ch; }
.lead { color: var(--muted); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
          padding: 22px 24px; margin-top: 20px; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
         margin-top: 22px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
        padding: 14px 16px; }
.tile b { display: block; font-size: 25px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13px; }
img { max-width: 100%; height: auto; display: block; margin-top: 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 8px; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }
th { color: var(--muted); font-weight: 500; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
ul { margin: 0; padding-left: 20px; max-width: 80ch; }
.caption { margin: 16px 0 0; font-weight: 500; }
pre { margin: 8px 0 0; font-size: 13px; line-height: 1.45; overflow-x: auto; }
footer { color: var(--muted); font-size: 13px; margin-top: 24px; }
"""


def tiles(figures: Mapping[str, str]) -> str:
    """The headline figures: what each says under its value."""
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in figures.items()
    )
    return f'<div class="tiles">{cells}</div>'


def picture(png: bytes, text: str) -> str:
    """A PNG embedded in the page; ``text`` is read out where it cannot be seen."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), numbers: Sequence[int] = ()) -> str:
    """A table of plain texts; the columns ``numbers`` are set to the right."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if i in numbers else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>" if header else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def bullets(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def caption(text: str) -> str:
    return f'<p class="caption">{escape(text)}</p>'


def verbatim(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def section(title: str, lead: str, *content: str) -> str:
    """A card with a title, a sentence on how to read it, and its content (already HTML)."""
    words = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{words}{''.join(content)}</section>"


def page(title: str, lead: str, *content: str, footer: str = "") -> str:
    """The whole document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f'<body><main><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>\n'
        + "\n".join(content)
        + f"\n<footer>{escape(footer)}</footer></main></body></html>\n"
    )
