"""The stored figures as tables: one model that is printed by rich and written as Markdown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks import predictions
from benchmarks.cases import DTYPES, OPS, SHAPES, Case
from benchmarks.results import CASE_FIELDS, Record

FUSED = ("auto", "cpu", "triton", "cuda")
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "channels_last": "NHWC", "contiguous": "NCHW"}
Group = dict[str, Record]  # the records of one case by provider


@dataclass
class Table:
    """A title, a note, column heads and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""

    def without_empty_columns(self) -> Table:
        filled = [place for place in range(len(self.columns)) if any(row[place] for row in self.rows)]
        rows = [tuple(row[place] for place in filled) for row in self.rows]
        return Table(self.title, tuple(self.columns[place] for place in filled), rows, self.note)

    def markdown(self) -> str:
        lines = [f"#### {self.title}", ""]
        lines += [self.note, ""] if self.note else []
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join(lines)


def groups(records: Iterable[Record]) -> dict[tuple[str, ...], Group]:
    """Records by case, cases in the order of the table in cases.py."""
    found: dict[tuple[str, ...], Group] = defaultdict(dict)
    for record in records:
        found[tuple(record[name] for name in CASE_FIELDS)][record["provider"]] = record
    order = {name: place for place, name in enumerate((*OPS, *SHAPES, *DTYPES))}

    def place(case: tuple[str, ...]) -> tuple[object, ...]:
        op, mode, shape, dtype, layout = case
        return order.get(op, -1), mode, order.get(dtype, -1), layout, order.get(shape, -1)

    return {case: found[case] for case in sorted(found, key=place)}


def is_measured(record: Record | None) -> bool:
    return record is not None and "median_ms" in record


def fused_of(group: Group) -> list[Record]:
    """The fused op's measured backends; the plain reference is no contender."""
    return [group[name] for name in FUSED if is_measured(group.get(name))]


def over_compile(record: Record, group: Group) -> float | None:
    """A provider's time over torch.compile's, both against eager of their rounds."""
    theirs = group.get("compile", {}).get("to_eager")
    return record["to_eager"] / theirs if theirs and "to_eager" in record else None


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


# --- cells --------------------------------------------------------------------------------------------------


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.3g}{unit}"


def _times(value: float | None) -> str:
    """A speed: how many times as fast, from a ratio of times."""
    return "" if not value else f"{1 / value:.2f}x"


def _range(record: Record, name: str) -> str:
    if name not in record:
        return ""
    return f"{record[name]:.2f} ({record[f'{name}_p20']:.2f}-{record[f'{name}_p80']:.2f})"


def size(count: float | None) -> str:
    """Bytes for people: 1536 -> "1.5 KiB"."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _elements(case: list[str], record: Record | None) -> str:
    """Elements kept per feature element: for a pair of C channels, as many C per pixel; for a norm, as many
    per element of x."""
    if not record or "saved_bytes" not in record or case[0] not in SHAPES:
        return ""
    return f"{record['saved_bytes'] / (SHAPES[case[0]].elements * DTYPES[case[1]].itemsize):.2f}"


# --- tables -------------------------------------------------------------------------------------------------


def summary(suite: str, cases: dict[tuple[str, ...], Group]) -> Table:
    """Geometric means over shapes and layouts."""
    collected: dict[tuple[str, ...], list[tuple[Record, Group]]] = defaultdict(list)
    for (op, mode, _, dtype, _), group in cases.items():
        for record in fused_of(group):
            collected[op, mode, dtype, record["provider"]].append((record, group))
    table = Table(
        f"{suite}: geometric means over shapes and layouts",
        (
            "op",
            "mode",
            "dtype",
            "backend",
            "cases",
            "speed to eager",
            "speed to compile",
            "time / bound",
            "worst",
            "copies",
        ),
    )
    for key, found in collected.items():
        records = [record for record, _ in found]

        def mean(name: str, records: list[Record] = records) -> float | None:
            return geometric_mean(record[name] for record in records if name in record)

        compiled = [ratio for record, group in found if (ratio := over_compile(record, group))]
        bounds = [record["to_bound"] for record in records if "to_bound" in record]
        table.rows.append(
            (
                *key,
                str(len(records)),
                _times(mean("to_eager")),
                _times(geometric_mean(compiled)),
                _number(mean("to_bound")),
                _number(max(bounds, default=None)),
                _number(mean("to_copy")),
            )
        )
    return table.without_empty_columns()


def details(cases: dict[tuple[str, ...], Group]) -> list[Table]:
    """A table per op and mode, with a row per case and fused backend."""
    tables: dict[tuple[str, str], Table] = {}
    for (op, mode, *rest), group in cases.items():
        for record in fused_of(group):
            table = tables.setdefault((op, mode), Table(f"{op}, {mode}", tuple(_DETAILS)))
            table.rows.append(tuple(cell(rest, record, group) for cell in _DETAILS.values()))
    return [table.without_empty_columns() for table in tables.values()]


def _of(provider: str, show: Callable[..., str], name: str) -> Callable[..., str]:
    return lambda case, record, group: show(group.get(provider, {}).get(name))


def predicted_ms(case: list[str], record: Record) -> float | None:
    """What the cost model predicts on an H100 for what a GPU backend did, None for the others."""
    if record["provider"] not in predictions.BACKENDS or case[0] not in SHAPES or "op" not in record:
        return None
    given = Case(record["op"], record["mode"], SHAPES[case[0]], case[1], case[2], ())
    seconds = predictions.seconds(given, record["provider"])
    return None if seconds is None else 1e3 * seconds


def predicted(tier: str) -> Table:
    """Predicted times of both GPU backends, with no card at hand."""
    cards = tuple(predictions.CEILINGS)
    return Table(
        "Predicted times on GPUs in microseconds, and in brackets those of the fewest bytes and FLOPs",
        (*predictions.COLUMNS, *cards),
        predictions.rows(cards, tier),
        "Not measured; the assumptions are in fused_ops/tuning/cost_model.py, one that memory is cold.",
    )


# The columns of the details: a head, and the cell of (shape, dtype, layout), the fused record and its group.
_DETAILS: dict[str, Callable[[list[str], Record, Group], str]] = {
    "shape": lambda case, record, group: case[0],
    "dtype": lambda case, record, group: _SHORT.get(case[1], case[1]),
    "layout": lambda case, record, group: _SHORT.get(case[2], case[2]),
    "backend": lambda case, record, group: record["provider"],
    "ms": lambda case, record, group: _number(record["median_ms"]),
    "predicted ms (H100)": lambda case, record, group: _number(predicted_ms(case, record)),
    "eager ms": _of("eager", _number, "median_ms"),
    "compile ms": _of("compile", _number, "median_ms"),
    "x eager": lambda case, record, group: _times(record.get("to_eager")),
    "x compile": lambda case, record, group: _times(over_compile(record, group)),
    "/ bound (p20-p80)": lambda case, record, group: _range(record, "to_bound"),
    "eager / bound": _of("eager", _number, "to_bound"),
    "compile / bound": _of("compile", _number, "to_bound"),
    "copies": lambda case, record, group: _number(record.get("to_copy")),
    "kept": lambda case, record, group: _elements(case, record),
    "eager kept": lambda case, record, group: _elements(case, group.get("eager")),
    "compile kept": lambda case, record, group: _elements(case, group.get("compile")),
    "peak": lambda case, record, group: size(record.get("peak_bytes")),
    "eager peak": _of("eager", size, "peak_bytes"),
    "error": lambda case, record, group: _number(record.get("error_roundings")),
    "eager error": _of("eager", _number, "error_roundings"),
}


def steps(cases: dict[tuple[str, ...], Group]) -> Table:
    """FERSNet's steps: images per second and memory of every provider."""
    table = Table(
        "fersnet_step: training step and inference",
        ("case", "provider", "ms (p20-p80)", "images/s", "speed to eager", "kept", "peak beyond resident",
         "resident", "peak / eager's", "loss difference", "curve difference"),
        note="resident: weights, gradients and Adam's states. Peaks are compared with what is resident. Loss "
        "difference: the generator's first loss against eager's, relative; curve: the largest over three "
        "steps, where eager's own is that of weights moved by a millionth.",
    )  # fmt: skip
    for case, group in cases.items():
        eager = _whole(group.get("eager"))
        for record in filter(is_measured, group.values()):
            whole = _whole(record)
            table.rows.append(
                (
                    f"{case[1]} {case[2]} {_SHORT[case[3]]}",
                    record["provider"],
                    f"{record['median_ms']:.3g} ({record['p20_ms']:.3g}-{record['p80_ms']:.3g})",
                    _number(1e3 * SHAPES[case[2]].batch / record["median_ms"]),
                    _times(record.get("to_eager")),
                    size(record.get("saved_bytes")),
                    size(record.get("peak_bytes")),
                    size(record.get("resident_bytes")),
                    _number(whole / eager if whole and eager else None),
                    _number(record.get("loss_difference")),
                    _number(record.get("curve_difference")),
                )
            )
    return table


def _whole(record: Record | None) -> float | None:
    """Peak of a step with what is resident, bytes."""
    if not record or "peak_bytes" not in record:
        return None
    return record["peak_bytes"] + record.get("resident_bytes", 0)


def skipped(records: Iterable[Record]) -> Table:
    """Why providers did not run, equal reasons counted together."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for record in records:
        if "skipped" in record:
            counts[record["provider"], record["skipped"]] += 1
    rows = [(provider, str(count), reason) for (provider, reason), count in counts.items()]
    return Table("Not measured", ("provider", "cases", "reason"), rows)


def suite_tables(suite: str, records: list[Record]) -> list[Table]:
    """All tables of a suite that have rows."""
    cases = groups(records)
    found = [steps(cases)] if suite == "fersnet_step" else [summary(suite, cases), *details(cases)]
    return [table for table in (*found, skipped(records)) if table.rows]
