"""The graphs of a report, as matplotlib figures that no window ever shows; pictures of faces are in
:mod:`fer_mtl.evaluation.face_plots`."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from math import isnan
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fer_mtl import fonts

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED = "#2563eb", "#d97706", "#059669", "#dc2626"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

# Which curves share a panel, and what the panel is called.
PANELS = (
    ("Recognition (cross-entropy)", ("classification", "expression")),
    ("Identity (to the true target)", ("identity",)),
    ("Cycle", ("cycle",)),
    ("Adversarial game", ("adversarial", "discriminator")),
)


def to_png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as the bytes of a PNG file, every text as it stands: a class may be named ``$``, too."""
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_parse_math(False)
            if more := fonts.families(text.get_text()):
                text.set_fontfamily([*text.get_fontfamily(), *more])
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # `fonts` has said it, once
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(place: Axes | Figure, handles: Mapping[str, Any], **options: Any) -> None:
    """A legend of all ``handles`` by name; matplotlib would leave out names that start with ``_``."""
    legend = place.legend(
        list(handles.values()), list(map(str, range(len(handles)))), frameon=False, fontsize=8,
        labelcolor=INK, **options,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_text(name)


def loss_curves(stats: Sequence[dict[str, Any]]) -> Figure:
    """Every loss and the accuracy over the epochs, from the lines of stats.jsonl."""
    epochs = [line["epoch"] for line in stats]
    panels = [(title, [name for name in names if name in stats[0]["losses"]]) for title, names in PANELS]
    panels = [(title, names) for title, names in panels if names]
    figure = Figure(figsize=(3.1 * (len(panels) + 1), 2.5), layout="constrained")
    grid = figure.subplots(1, len(panels) + 1, squeeze=False)[0]
    marker = "o" if len(epochs) == 1 else None
    for axes, (title, names) in zip(grid, panels, strict=False):
        _tidy(axes, title)
        for name, colour in zip(names, (BLUE, ORANGE), strict=False):
            axes.plot(
                epochs,
                [line["losses"][name] for line in stats],
                color=colour,
                lw=1.8,
                marker=marker,
                label=name,
            )
        axes.set_ylim(bottom=0)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes = grid[-1]
    _tidy(axes, "Accuracy (%)")
    axes.plot(
        epochs,
        [100 * line["train_accuracy"] for line in stats],
        color=BLUE,
        lw=1.8,
        marker=marker,
        label="training (augmented)",
    )
    if "validation" in stats[0]:
        axes.plot(
            epochs,
            [100 * line["validation"]["accuracy"] for line in stats],
            color=GREEN,
            lw=1.8,
            marker=marker,
            label="validation subjects",
        )
    axes.set_ylim(0, 103)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    for axes in grid:
        axes.set_xlabel("epoch", fontsize=8, color=MUTED)
    return figure


def confusion_plot(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Rows are the true expressions; each cell shows its share of the row and, small, its count."""
    counts = torch.tensor(confusion, dtype=torch.float64)
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    size = 0.72 * len(classes)
    figure = Figure(figsize=(size + 1.5, size + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1.15)
    for i in range(len(classes)):
        for j in range(len(classes)):
            if counts[i, j] == 0:
                continue
            colour = "white" if share[i, j] > 0.55 else INK
            axes.text(
                j, i - 0.08, f"{100 * share[i, j]:.0f}%", ha="center", va="center", fontsize=9, color=colour
            )
            axes.text(
                j, i + 0.26, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=6.5, color=colour
            )
    axes.set_xticks(range(len(classes)), classes, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(classes)), classes, fontsize=9)
    axes.set_xlabel("recognised as", color=MUTED, fontsize=9)
    axes.set_ylabel("true expression", color=MUTED, fontsize=9)
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def reliability_plot(bins: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Accuracy over confidence, one line a run; ``bins`` as :mod:`fer_mtl.evaluation.calibration` gives them.
    On the diagonal confidence is what it claims to be; a dot's size is the share of images."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    _tidy(axes, "Reliability")
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
    shown = {}
    for colour, (name, found) in zip(cycle(COLOURS), bins.items(), strict=False):
        total = sum(b["images"] for b in found)
        x, y = [b["confidence"] for b in found], [b["accuracy"] for b in found]
        (shown[name],) = axes.plot(x, y, color=colour, lw=1.5)
        axes.scatter(x, y, [8 + 160 * b["images"] / total for b in found], color=colour, alpha=0.6, lw=0)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence", fontsize=8, color=MUTED)
    axes.set_ylabel("accuracy", fontsize=8, color=MUTED)
    if len(bins) > 1:
        _legend(axes, shown, loc="upper left")
    return figure


def bars(
    groups: Mapping[str, Mapping[str, float]], title: str, limits: tuple[float, float] | None = None
) -> Figure:
    """For every group (on the x axis) one bar for each series, the same series in all groups."""
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    figure = Figure(figsize=(max(4.0, 0.32 * len(groups) * len(series) + 1.5), 2.8), layout="constrained")
    axes = figure.subplots()
    _tidy(axes, title)
    width = 0.8 / len(series)
    shown = {}
    for i, (colour, name) in enumerate(zip(cycle(COLOURS), series, strict=False)):
        heights = [values.get(name, float("nan")) for values in groups.values()]
        places = [x + (i - (len(series) - 1) / 2) * width for x in range(len(groups))]
        shown[name] = axes.bar(places, heights, width * 0.92, color=colour)
    axes.set_xticks(range(len(groups)), groups, rotation=20 if len(groups) > 4 else 0)
    if limits is not None:
        axes.set_ylim(*limits)
    if len(series) > 1:
        _legend(figure, shown, loc="outside right center")
    return figure


def learning_curve(lines: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Accuracy over the number of training subjects; a line's points are (subjects, accuracy in 0..1). Runs
    with the same number of subjects are points above each other, and the line goes through their mean."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    _tidy(axes, "Accuracy (%) over training subjects")
    shown = {}
    for colour, (name, points) in zip(cycle(COLOURS), lines.items(), strict=False):
        means = [(x, fmean(100 * y for at, y in points if at == x)) for x in sorted({x for x, _ in points})]
        (shown[name],) = axes.plot(*zip(*means, strict=True), color=colour, lw=1.8, label=name)
        axes.plot(*zip(*((x, 100 * y) for x, y in points), strict=True), "o", color=colour)
    axes.set_xlabel("training subjects of a fold", fontsize=8, color=MUTED)
    _legend(axes, shown, loc="lower right")
    return figure


def _alone(values: Sequence[float]) -> list[int]:
    """Where a value has no neighbour to draw a line to."""
    known = [False, *(not isnan(value) for value in values), False]
    return [i for i in range(len(values)) if known[i : i + 3] == [False, True, False]]


def timeline(
    times: Sequence[float], probabilities: Sequence[Sequence[float]], classes: Sequence[str], unit: str
) -> Figure:
    """The probability of every expression over time; NaN where there is no face leaves a gap."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    _tidy(axes, "Probability of each expression")
    shown = {}
    for colour, name, values in zip(cycle(COLOURS), classes, zip(*probabilities, strict=True), strict=False):
        (shown[name],) = axes.plot(times, values, color=colour, lw=1.6)
        if alone := _alone(values):
            axes.plot([times[i] for i in alone], [values[i] for i in alone], "o", color=colour)
    axes.set_ylim(0, 1)
    axes.set_xlabel(unit, fontsize=8, color=MUTED)
    _legend(axes, shown, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
