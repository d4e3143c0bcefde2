"""The table of compiled kernels that is kept in ``benchmarks/results``, and how a row knows its launch.

A row belongs to a launch by its fingerprint: a digest of the kernel's source with all it calls (comments,
layout and docstrings apart), its types, constants and hints. So a row is compiled once, and a changed kernel
or launch table shows as a row that is missing.
"""

from __future__ import annotations

import ast
import csv
import functools
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = (
    "architecture", "case", "kernel", "num_warps", "num_stages", "registers", "spills", "shared_bytes",
    "repeats", "tensor_core", "access_bits", "triton", "fingerprint",
)  # fmt: skip
Row = Mapping[str, str]
# So that all versions of Python print a tree alike.
_PRINTED: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}


def fingerprint(kernel: Any, *facts: Any) -> str:
    """A digest of a kernel, of whatever it calls, and of facts that print the same for the same launch."""
    sources = [_source(function) for function in _with_callees(kernel)]
    return hashlib.sha256(repr((sources, facts)).encode()).hexdigest()[:16]


def _with_callees(kernel: Any) -> list[Any]:
    found: dict[int, Any] = {}
    waiting = [kernel]
    while waiting:
        function = waiting.pop()
        if id(function) in found:
            continue
        found[id(function)] = function
        names = {node.id for node in ast.walk(_tree(function)) if isinstance(node, ast.Name)}
        values = (function.fn.__globals__.get(name) for name in sorted(names))
        waiting += [value for value in values if hasattr(value, "fn") and hasattr(value, "src")]
    return list(found.values())


@functools.cache
def _tree(function: Any) -> ast.Module:
    return ast.parse(function.src)


@functools.cache
def _source(function: Any) -> str:
    tree = _tree(function)
    body = tree.body[0].body  # type: ignore[attr-defined]
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    constants = {
        node.id: str(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name)
        and isinstance(value := getattr(function.fn.__globals__.get(node.id), "value", None), int | float)
    }
    arguments = ast.dump(tree.body[0].args, **_PRINTED)  # type: ignore[attr-defined]
    statements = [ast.dump(statement, **_PRINTED) for statement in body]
    return repr((function.__name__, arguments, statements, sorted(constants.items())))


def read(path: Path) -> list[Row]:
    """The rows, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows in a fixed order, the file whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        sorted(rows, key=lambda row: (row["case"], row["kernel"], row["architecture"], row["fingerprint"]))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    part.write_text(text.getvalue())
    os.replace(part, path)
