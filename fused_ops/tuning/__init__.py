"""Launch parameters as data: a table per card beside this file, and one of defaults for all cards.

A table is JSON: for each kernel family a list of rows ``{"when": {...}, "launch": {...}}``. The first row
whose conditions hold is taken, from the card's own table (``sm_90.json``) if it has one that fits, else from
that of a related card (:data:`RELATED`), else from ``default.json``. A condition is a fact of the call with
its value (``"itemsize": 2``), or, with ``_most`` or ``_least`` appended, the largest or smallest value it may
have (``"channels_most": 64``). ``note`` says where a row comes from.

The defaults follow from the compiler's report (:mod:`fused_ops.tuning.aot`) and the cost model
(:mod:`fused_ops.tuning.cost_model`); nothing is tried out at run time. ``python -m fused_ops tune`` measures
on a card and puts its rows first (:mod:`.tune`); :mod:`.dispatch` chooses between the GPU backends.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fused_ops.tuning.notes import is_listening, note

FOLDER = Path(__file__).parent
DEFAULTS = "default"
# As much shared memory, and tensor cores that read it: the tiles of sm_90 fit, and do not spill.
RELATED = {"sm_100": ("sm_90",), "sm_103": ("sm_100", "sm_90")}


@dataclass(frozen=True)
class Row:
    """One row of a table: what it gives, where it stands and what its note says."""

    launch: Mapping[str, Any]
    place: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.place}{f' ({self.note})' if self.note else ''}"


Table = Mapping[str, list[dict[str, Any]]]
_trials: dict[str, Mapping[str, Any]] = {}
_asked: list[tuple[str, dict[str, int | str], Row]] | None = None
_given: dict[str, Table] = {}
_remembered: list[Any] = []
Result = TypeVar("Result")


@functools.cache
def table(name: str) -> Table:
    """The table of an architecture ("sm_90") or of the defaults; empty where there is none."""
    if name in _given:
        return _given[name]
    path = FOLDER / f"{name}.json"
    content: Table = json.loads(path.read_text()) if path.exists() else {}
    return content


def forget_tables() -> None:
    """Read the tables again when they are next asked for: one was written."""
    for kept in (table, _choose, *_remembered):
        kept.cache_clear()


@contextlib.contextmanager
def table_given(name: str, content: Table) -> Iterator[None]:
    """Within the context this is the table of that name, whatever the file beside this one holds."""
    _given[name] = content
    forget_tables()
    try:
        yield
    finally:
        del _given[name]
        forget_tables()


def rows_of(name: str, family: str, facts: Mapping[str, int | str]) -> Iterator[Row]:
    """The rows of one table that fit, in order."""
    for index, row in enumerate(table(name).get(family, ()), 1):
        if all(_holds(condition, value, facts) for condition, value in row["when"].items()):
            yield Row(row["launch"], f"{family}: row {index} of {name}.json", row.get("note", ""))


def all_rows(architecture: str, family: str, facts: Mapping[str, int | str]) -> Iterator[Row]:
    """All rows that fit on an architecture; the first is the one that is taken."""
    for name in (architecture, *RELATED.get(architecture, ()), DEFAULTS):
        yield from rows_of(name, family, facts)


@functools.cache
def _choose(architecture: str, family: str, facts: tuple[tuple[str, int | str], ...]) -> Row:
    known = dict(facts)
    for row in all_rows(architecture, family, known):
        return row
    raise LookupError(f"no row of the launch tables fits {family} with {known} on {architecture}")


def choose_row(architecture: str, family: str, **facts: int | str) -> Row:
    """The row of the launch tables for a call of a kernel family with these facts on this architecture.

    Raises:
        LookupError: no row fits.
    """
    return _choose(architecture, family, tuple(facts.items()))


def choose(architecture: str, family: str, **facts: int | str) -> Mapping[str, Any]:
    """The launch parameters of :func:`choose_row`, noted for :func:`fused_ops.explain`; or those on trial."""
    if family in _trials:
        return _trials[family]
    row = choose_row(architecture, family, **facts)
    note(row)
    if _asked is not None:
        _asked.append((family, facts, row))
    return row.launch


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keep what a function of plain values makes of the launch tables: a call has few microseconds for it.

    It is called anew while rows are noted or on trial, and after the tables have changed.
    """
    kept = functools.lru_cache(maxsize=4096)(function)
    _remembered.append(kept)

    @functools.wraps(function)
    def found(*args: Any) -> Result:
        if _trials or _asked is not None or is_listening():
            return function(*args)
        return kept(*args)

    return found


@contextlib.contextmanager
def asked() -> Iterator[list[tuple[str, dict[str, int | str], Row]]]:
    """Within the context what is chosen is collected: family, facts and row."""
    global _asked
    before, _asked = _asked, []
    try:
        yield _asked
    finally:
        _asked = before


@contextlib.contextmanager
def on_trial(family: str, launch: Mapping[str, Any]) -> Iterator[None]:
    """Within the context every call of this kernel family gets these launch parameters."""
    _trials[family] = launch
    try:
        yield
    finally:
        del _trials[family]


def _holds(condition: str, value: int | str, facts: Mapping[str, Any]) -> bool:
    if condition.endswith("_most"):
        return int(facts[condition.removesuffix("_most")]) <= int(value)
    if condition.endswith("_least"):
        return int(facts[condition.removesuffix("_least")]) >= int(value)
    return bool(facts[condition] == value)
