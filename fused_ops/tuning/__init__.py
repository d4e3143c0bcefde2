"""Launch parameters as data: a table per card beside this file, and one of defaults for all cards.

A table is JSON: for each kernel family a list of rows ``{"when": {...}, "launch": {...}}``. The first row
whose conditions hold is taken, from the card's own table (``sm_90.json``) if it has one that fits, else from
that of a related card (:data:`RELATED`), else from ``default.json``. A condition is a fact of the call with
its value (``"itemsize": 2``), or, with ``_most`` or ``_least`` appended, the largest or smallest value it may
have (``"channels_most": 64``). ``note`` says where a row comes from.

The defaults follow from the compiler's report (:mod:`fused_ops.tuning.aot`) and the cost model
(:mod:`fused_ops.tuning.cost_model`); nothing is tried out at run time.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DEFAULTS = "default"
# As much shared memory, and tensor cores that read it: the tiles of sm_90 fit, and do not spill.
RELATED = {"sm_100": ("sm_90",), "sm_103": ("sm_100", "sm_90")}


@functools.cache
def table(name: str) -> Mapping[str, list[dict[str, Any]]]:
    """The table of an architecture ("sm_90") or of the defaults; empty where there is none."""
    path = FOLDER / f"{name}.json"
    content: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    return content


@functools.cache
def _choose(architecture: str, family: str, facts: tuple[tuple[str, int | str], ...]) -> Mapping[str, Any]:
    known = dict(facts)
    for name in (architecture, *RELATED.get(architecture, ()), DEFAULTS):
        for row in table(name).get(family, ()):
            if all(_holds(condition, value, known) for condition, value in row["when"].items()):
                launch: Mapping[str, Any] = row["launch"]
                return launch
    raise LookupError(f"no row of the launch tables fits {family} with {known} on {architecture}")


def choose(architecture: str, family: str, **facts: int | str) -> Mapping[str, Any]:
    """The launch parameters for a call of a kernel family with these facts on this architecture.

    Raises:
        LookupError: no row fits.
    """
    return _choose(architecture, family, tuple(facts.items()))


def _holds(condition: str, value: int | str, facts: Mapping[str, Any]) -> bool:
    if condition.endswith("_most"):
        return int(facts[condition.removesuffix("_most")]) <= int(value)
    if condition.endswith("_least"):
        return int(facts[condition.removesuffix("_least")]) >= int(value)
    return bool(facts[condition] == value)
