"""The stored figures as pictures: speed against eager, memory, and the share of the bound, per shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.cases import DTYPES, SHAPES
from benchmarks.results import Record
from benchmarks.tables import FUSED, Group, groups, is_measured

COLOURS = {
    "eager": "#8c8c8c",
    "compile": "#e69f00",
    "auto": "#cc79a7",
    "cpu": "#0072b2",
    "triton": "#009e73",
    "cuda": "#56b4e9",
}


@dataclass(frozen=True)
class Metric:
    """What a bar shows; ``value`` gives it from a provider's record and its case's group, or None."""

    name: str
    title: str
    label: str
    value: Callable[[Record, Group], float | None]
    providers: tuple[str, ...]
    reference: float | None = None
    log: bool = False


def _kept(record: Record, group: Group) -> float | None:
    shape = SHAPES.get(record["shape"])
    if shape is None or shape.preset or "saved_bytes" not in record:
        return None
    return record["saved_bytes"] / (shape.elements * DTYPES[record["dtype"]].itemsize)


def _peak(record: Record, group: Group) -> float | None:
    def whole(record: Record) -> float:
        return record["peak_bytes"] + record.get("resident_bytes", 0)

    eager = group.get("eager", {})
    return whole(record) / whole(eager) if "peak_bytes" in record and eager.get("peak_bytes") else None


METRICS = (
    Metric(
        "speed",
        "Speed against eager PyTorch",
        "times as fast as eager",
        lambda record, group: 1 / record["to_eager"] if "to_eager" in record else None,
        ("compile", *FUSED),
        reference=1.0,
        log=True,
    ),
    Metric(
        "bound",
        "Share of the bound",
        "time of the roofline's work alone / time",
        lambda record, group: record.get("bound_share"),
        ("eager", "compile", *FUSED),
        reference=1.0,
    ),
    Metric(
        "kept",
        "Memory kept for the backward",
        "elements kept per feature element",
        _kept,
        ("eager", "compile", *FUSED),
    ),
    Metric(
        "peak",
        "Peak memory against eager",
        "peak / eager's peak",
        _peak,
        ("compile", *FUSED),
        reference=1.0,
    ),
)

# Which cases a suite's picture shows: (title, records it takes) for every panel, row by row.
_MODES = {"selective_share": ("forward", "full"), "norm_act": ("full", "forward"), "fersnet_step": ()}


def _panels(suite: str, cases: dict[tuple[str, ...], Group]) -> list[tuple[str, list[tuple[str, Group]]]]:
    found: dict[str, list[tuple[str, Group]]] = {}
    for (op, mode, shape, dtype, layout), group in cases.items():
        if suite == "norm_act" and (dtype != "float32" or (mode == "forward") != op.endswith("_eval")):
            continue
        if suite != "fersnet_step" and mode not in _MODES[suite]:
            continue
        title = f"{mode}, {dtype}" if suite == "fersnet_step" else f"{op}, {mode}\n{dtype}, {layout}"
        found.setdefault(title, []).append((shape, group))
    return list(found.items())


def draw(suite: str, records: list[Record], folder: Path) -> list[Path]:
    """Draw every metric of a suite that has figures, as ``<suite>-<metric>.png``."""
    panels = _panels(suite, groups(records))
    paths = []
    for metric in METRICS:
        filled = [(title, bars) for title, bars in panels if _values(metric, bars)]
        if not filled:
            continue
        columns = min(2, len(filled))
        rows = -(-len(filled) // columns)
        heights = [max(len(bars) for _, bars in filled[r * columns : (r + 1) * columns]) for r in range(rows)]
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(5.2 * columns, sum(0.9 + 0.32 * height for height in heights) + 0.6),
            height_ratios=[height + 1.5 for height in heights],
            squeeze=False,
            layout="constrained",
        )
        figure.suptitle(metric.title)
        used: dict[str, object] = {}
        for axis, (title, bars) in zip(axes.flat, filled, strict=False):
            used |= _panel(axis, metric, title, bars)
        for axis in axes.flat[len(filled) :]:
            axis.axis("off")
        figure.legend(used.values(), used.keys(), loc="outside upper right", ncols=len(used), frameon=False)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{suite}-{metric.name}.png"
        figure.savefig(path, dpi=90)
        plt.close(figure)
        paths.append(path)
    return paths


def _values(metric: Metric, bars: list[tuple[str, Group]]) -> list[float]:
    return [
        value
        for _, group in bars
        for name in metric.providers
        if is_measured(group.get(name)) and (value := metric.value(group[name], group)) is not None
    ]


def _panel(axis: Axes, metric: Metric, title: str, bars: list[tuple[str, Group]]) -> dict[str, object]:
    """One panel of horizontal bars; returns the legend's handles by provider."""
    names = [n for n in metric.providers if any(is_measured(group.get(n)) for _, group in bars)]
    thickness = 0.8 / max(1, len(names))
    handles: dict[str, object] = {}
    start = 1.0 if metric.log else 0.0  # on a logarithmic axis bars grow from "as fast as", to either side
    for place, name in enumerate(names):
        for row, (_, group) in enumerate(bars):
            record = group.get(name)
            value = metric.value(record, group) if is_measured(record) and record is not None else None
            if value is None:
                continue
            middle = row + (place - (len(names) - 1) / 2) * thickness
            handles[name] = axis.barh(
                middle, value - start, thickness * 0.92, left=start, color=COLOURS[name]
            )
            axis.annotate(f"{value:.2g}" if value < 10 else f"{value:.0f}", (max(value, start), middle),
                          xytext=(2, 0), textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    axis.set_yticks(range(len(bars)), [shape for shape, _ in bars], fontsize=8)
    axis.invert_yaxis()
    if metric.log:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if metric.reference is not None:
        axis.axvline(metric.reference, color="black", linewidth=0.8)
    axis.margins(x=0.12)
    axis.set_xlabel(metric.label, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_title(title, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    return handles
