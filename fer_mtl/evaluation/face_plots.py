"""Pictures made of faces: grids of synthesis, of interpolation and of the gates' maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer_mtl.evaluation.gates import DIRECTIONS, accepted
from fer_mtl.evaluation.plots import BLUE, INK, MUTED
from fer_mtl.evaluation.synthesis import Gallery, Interpolation


class Sheet:
    """A figure measured in cells: pictures are placed from the top left, in units of a cell."""

    def __init__(self, columns: float, rows: float, cell: float = 1.0) -> None:
        self.columns, self.rows = columns, rows
        self.figure = Figure(figsize=(columns * cell, rows * cell))

    def axes(self, x: float, y: float, width: float = 0.96, height: float = 0.96) -> Axes:
        """Axes whose top left corner lies at (x, y)."""
        return self.figure.add_axes(
            (x / self.columns, 1 - (y + height) / self.rows, width / self.columns, height / self.rows)
        )

    def picture(self, x: float, y: float, picture: torch.Tensor, **options: Any) -> Axes:
        """Show float ``[C, S, S]`` in [0, 1] there, without any frame."""
        axes = self.axes(x, y)
        array = picture.clamp(0, 1).permute(1, 2, 0).numpy()
        shown = array if array.shape[2] == 3 else array[..., 0]
        look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, **options}
        axes.imshow(shown, **look)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def text(self, x: float, y: float, text: str, size: float = 9, color: str = INK, **options: Any) -> None:
        """Write ``text``, centred at (x, y)."""
        self.figure.text(
            x / self.columns,
            1 - y / self.rows,
            text,
            fontsize=size,
            color=color,
            **({"ha": "center", "va": "center"} | options),
        )


def face_grid(rows: torch.Tensor, columns: Sequence[str]) -> Figure:
    """Faces float ``[n, k, C, S, S]`` as n rows of k named columns."""
    head = 0.3
    sheet = Sheet(len(columns), len(rows) + head)
    for x, name in enumerate(columns):
        sheet.text(x + 0.48, head / 2, name)
    for y, row in enumerate(rows):
        for x, face in enumerate(row):
            sheet.picture(x, head + y, face)
    return sheet.figure


def synthesis_grid(faces: Gallery, classes: Sequence[str]) -> Figure:
    """Per subject a row of synthesised faces and beneath it, where any exist, the true ones.

    First the source, then every expression; the source's own expression is framed.
    """
    head, margin, between = 0.3, 0.25, 0.12
    true = [
        bool((faces.known[i] & (torch.arange(len(classes)) != faces.label[i])).any())
        for i in range(len(faces.source))
    ]
    height = head + sum(1 + shown + between for shown in true) - between
    sheet = Sheet(1 + margin + len(classes), height)
    sheet.text(0.48, head / 2, "source")
    for e, name in enumerate(classes):
        sheet.text(1 + margin + e + 0.48, head / 2, name)
    y = head
    for i, shown in enumerate(true):
        own = int(faces.label[i])
        axes = sheet.picture(0, y, faces.source[i])
        axes.text(
            0.03,
            0.05,
            classes[own],
            transform=axes.transAxes,
            fontsize=7,
            color="white",
            bbox={"boxstyle": "round,pad=0.25", "facecolor": INK, "edgecolor": "none", "alpha": 0.8},
        )
        sheet.text(1 + margin / 2, y + 0.48, "synthesised", size=7, color=BLUE, rotation=90)
        for e in range(len(classes)):
            axes = sheet.picture(1 + margin + e, y, faces.made[i, e])
            if e == own:
                for spine in axes.spines.values():
                    spine.set(visible=True, color=BLUE, linewidth=2)
        if shown:
            sheet.text(1 + margin / 2, y + 1.48, "true", size=7, color=MUTED, rotation=90)
            for e in range(len(classes)):
                if faces.known[i, e]:
                    sheet.picture(1 + margin + e, y + 1, faces.target[i, e])
        y += 1 + shown + between
    return sheet.figure


def gate_maps(images: torch.Tensor, gates: Mapping[int, Any], convention: str) -> Figure:
    """Where each task lets the other one in: the gates' mean over the channels, per level and direction.

    ``images`` float ``[n, C, S, S]``; ``gates`` a ``ShareGates`` per sharing level. z is drawn in its
    "accept" sense (1 = take the candidate made of the other task's features) whatever the convention.
    """
    groups: list[tuple[str, dict[str, torch.Tensor]]] = []
    for level, pair in gates.items():
        for key, direction in DIRECTIONS.items():
            unit = getattr(pair, key)
            accept = accepted(unit.z, convention)
            maps = {"r": unit.r.float().mean(1).cpu(), "z": accept.float().mean(1).cpu()}
            groups.append((f"level {level}\n{direction}", maps))
    values = torch.cat([m.flatten() for _, maps in groups for m in maps.values()])
    low, high = float(values.min()), float(values.max())
    head, gap = 0.75, 0.12
    sheet = Sheet(1 + gap + len(groups) * (2 + gap) + 0.45, head + len(images))
    for y, image in enumerate(images):
        sheet.picture(0, head + y, image)
    for k, (title, maps) in enumerate(groups):
        left = 1 + gap + k * (2 + gap)
        sheet.text(left + 0.98, 0.25, title, size=8)
        for x, (name, found) in enumerate(maps.items()):
            sheet.text(left + x + 0.48, 0.62, f"{name}  {found.mean():.2f}", size=8, color=MUTED)
            for y in range(len(images)):
                axes = sheet.picture(left + x, head + y, found[y][None], cmap="viridis", vmin=low, vmax=high)
    bar = sheet.figure.colorbar(
        axes.images[0], cax=sheet.axes(sheet.columns - 0.45, head, 0.1, len(images) - 0.04)
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=MUTED, length=0)
    return sheet.figure


def interpolation_grid(faces: Interpolation, classes: Sequence[str]) -> Figure:
    """A row for each source: the source, then its way from one expression to another."""
    rows, steps = faces.made.shape[:2]
    head, margin = 0.3, 0.9
    sheet = Sheet(margin + 1.1 + steps + margin, head + rows)
    sheet.text(margin + 0.48, head / 2, "source")
    for k in range(steps):
        sheet.text(margin + 1.1 + k + 0.48, head / 2, f"{k / (steps - 1):.0%}", size=8, color=MUTED)
    for y in range(rows):
        sheet.text(margin / 2, head + y + 0.48, classes[int(faces.start[y])], size=8)
        sheet.text(sheet.columns - margin / 2, head + y + 0.48, classes[int(faces.end[y])], size=8)
        sheet.picture(margin, head + y, faces.source[y])
        for k in range(steps):
            sheet.picture(margin + 1.1 + k, head + y, faces.made[y, k])
    return sheet.figure
