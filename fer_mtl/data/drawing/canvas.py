"""A batch of pictures painted with signed distance fields: negative inside a shape, positive outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Field = torch.Tensor
"""A value per pixel, float32 [B, H, W] or broadcastable to it."""


SIDES = (-1, 1)
"""The left and the right half of a picture."""


class Canvas:
    """pixels: float32 [B, 3, H, W] in 0..1; x, y: face coordinates of every pixel, [B, H, W];
    pixel: size of a pixel in face units, [B, 1, 1], the width of the antialiased edge."""

    def __init__(self, pixels: torch.Tensor, x: Field, y: Field, pixel: Field) -> None:
        self.pixels, self.x, self.y, self.pixel = pixels, x, y, pixel

    def window(self, x0: float, x1: float, y0: float, y1: float) -> Canvas:
        """The part of the canvas where x0 < x < x1, y0 < y < y1 in any picture; it shares the pixels.

        Painting a small feature in its window costs a fraction of painting it on the whole picture.
        """
        step = 4  # looking at one pixel in 16 is enough, with a margin
        x, y = self.x[:, ::step, ::step], self.y[:, ::step, ::step]
        inside = ((x > x0) & (x < x1) & (y > y0) & (y < y1)).any(0)
        rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
        if not len(rows):
            rows = columns = torch.zeros(1, 1, dtype=torch.int64)
        r, c = (
            slice(max(0, (int(line[0]) - 1) * step), (int(line[-1]) + 1) * step) for line in (rows, columns)
        )
        return Canvas(self.pixels[:, :, r, c], self.x[:, r, c], self.y[:, r, c], self.pixel)

    def half(self, side: int, near: float, far: float, y0: float, y1: float) -> Canvas:
        """A window on the left (side -1) or right (+1) half, between two distances from the middle."""
        return self.window(near, far, y0, y1) if side > 0 else self.window(-far, -near, y0, y1)

    def paint(
        self,
        shape: Field,
        colour: Sequence[float] | torch.Tensor,
        opacity: float | Field = 1.0,
        soft: float | Field = 0.0,
    ) -> None:
        """Cover the shape with a colour (3 floats or [B, 3, H, W]).

        soft: width of the blurred edge in face units; 0 gives an edge as sharp as the pixels allow
        """
        cover = (0.5 - shape / (self.pixel + soft)).clamp(0, 1) * opacity
        if not isinstance(colour, torch.Tensor):
            colour = torch.tensor(colour, dtype=self.pixels.dtype).view(1, 3, 1, 1)
        self.pixels.lerp_(colour.expand_as(self.pixels), cover.unsqueeze(1).expand_as(self.pixels))


def shade(colour: Sequence[float], factor: float) -> list[float]:
    """The colour made darker (factor < 1) or brighter, at most white."""
    return [min(1.0, factor * channel) for channel in colour]


def ellipse(x: Field, y: Field, rx: float | Field, ry: float | Field) -> Field:
    """Distance to an ellipse at the origin, first order: exact on the outline, good near it."""
    px, py = x / rx, y / ry
    k = (px * px + py * py).sqrt()
    slope = ((px / rx) ** 2 + (py / ry) ** 2).sqrt()
    return k * (k - 1) / (slope + 1e-6)


def rounded_box(x: Field, y: Field, rx: float | Field, ry: float | Field, corner: float) -> Field:
    """Distance to a box of half sides rx, ry with rounded corners."""
    dx, dy = x.abs() - rx + corner, y.abs() - ry + corner
    outside = (dx.clamp(min=0) ** 2 + dy.clamp(min=0) ** 2).sqrt()
    return outside + torch.maximum(dx, dy).clamp(max=0) - corner


def bend(t: Field, start: float | Field, middle: float | Field, end: float | Field) -> Field:
    """Quadratic Bezier height at t in 0..1."""
    s = 1 - t
    return s * s * start + 2 * s * t * middle + t * t * end


def stroke(
    along: Field,
    across: Field,
    start: tuple[float | Field, float | Field],
    middle: float | Field,
    end: tuple[float | Field, float | Field],
    thickness: float | Field,
    taper: float = 0.0,
) -> Field:
    """Distance to a brush stroke that is the graph of a quadratic, with round ends.

    along, across: pixel coordinates (pass y, x for a stroke that runs downwards)
    start, end: (along, across) of the two ends; middle: across of the control point
    thickness: half width; taper: share of it lost towards the end (negative: towards the start)
    """
    length = end[0] - start[0]
    t = ((along - start[0]) / length).clamp(0, 1)
    slope = (2 * ((1 - t) * (middle - start[1]) + t * (end[1] - middle))) / length
    da = along - (start[0] + t * length)
    dc = (across - bend(t, start[1], middle, end[1])) / (1 + slope * slope).sqrt()
    if taper:
        thickness = thickness * (1 - taper * t if taper > 0 else 1 + taper * (1 - t))
    return (da * da + dc * dc).sqrt() - thickness
