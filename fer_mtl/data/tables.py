"""Label files: comma-separated tables whose header and numbers are checked, with the line in every error."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_table(
    path: Path, columns: Sequence[str], optional_header: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a comma-separated file, each with where it is ("FILE, line 3").

    columns: those that are needed; others are kept too. Spaces around names and values do not count.
    optional_header: without a header the columns are taken to be `columns`, in that order

    Raises ValueError, naming file and line, for needed columns that are missing or there twice, a row of
    another length and text that is not UTF-8.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if not set(columns) <= set(header):
                if not (optional_header and len(header) == len(columns)):
                    raise ValueError(
                        f"{path}: the first line must name the columns {', '.join(columns)}, "
                        f"got {', '.join(header)[:200] or 'nothing'}"
                    )
                first, header = header, list(columns)
                yield f"{path}, line 1", dict(zip(header, first, strict=True))
            if repeated := [name for name in columns if header.count(name) > 1]:
                raise ValueError(f"{path}: the first line must name {', '.join(repeated)} once")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(f"{where}: {len(row)} values, expected {len(header)}")
                yield where, dict(zip(header, (value.strip() for value in row), strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a comma-separated table: {error}") from error


def read_label(path: Path) -> str:
    """The text of a label file that is no table, without the mark that Windows editors begin it with. What is
    not UTF-8 shows as such in the error that comes of it."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def number(text: str, where: str, name: str) -> float:
    """The value of a numeric column. ValueError saying where it is and what it got."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {name} must be a number, got {text!r}")
    return value


def code(text: str, where: str, name: str, codes: Sequence[int] | dict[int, str]) -> int:
    """The value of a column of codes, such as "3" or "3.0000000e+00". ValueError unless one of `codes`."""
    value = number(text, where, name)
    if value not in codes:
        raise ValueError(f"{where}: {name} must be one of {', '.join(map(str, codes))}, got {text!r}")
    return int(value)
