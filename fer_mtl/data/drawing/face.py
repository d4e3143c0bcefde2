"""A person in a batch of poses, lights and expressions, as every part of the drawing sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fer_mtl.data.drawing.action_units import CONTROLS
from fer_mtl.data.drawing.canvas import Canvas, Field
from fer_mtl.data.drawing.identity import Identity


@dataclass(frozen=True)
class Shot:
    """One picture of a face: how it is posed and lit, and its expression's controls."""

    controls: np.ndarray  # [len(CONTROLS), 2], left and right half
    roll: float  # radians
    yaw: float  # turn of the head, in face units that the nose moves sideways
    pitch: float  # the same, downwards
    scale: float
    shift: tuple[float, float]
    light: tuple[float, float]  # brightness gained towards the right and the bottom of the face
    gain: float
    warmth: float
    gaze: tuple[float, float]


class Face:
    """What every part of the drawing needs: the person, the shots as [B, 1, 1] tensors, the outline."""

    def __init__(self, person: Identity, shots: list[Shot]) -> None:
        self.person = person
        controls = torch.tensor(np.stack([s.controls for s in shots]), dtype=torch.float32)
        self._controls = {name: controls[:, i, :, None, None] for i, name in enumerate(CONTROLS)}
        self.roll, self.yaw, self.pitch, self.scale, self.gain, self.warmth = (
            _column([getattr(s, name) for s in shots])
            for name in ("roll", "yaw", "pitch", "scale", "gain", "warmth")
        )
        self.shift_x, self.shift_y, self.light_x, self.light_y, self.gaze_x, self.gaze_y = (
            _column([getattr(s, name)[axis] for s in shots])
            for name in ("shift", "light", "gaze")
            for axis in (0, 1)
        )
        self.jaw = self.both("jaw")

    def half(self, name: str, side: int) -> Field:
        """A control of the left (-1) or right (+1) half of the face, [B, 1, 1]."""
        return self._controls[name][:, 0 if side < 0 else 1]

    def both(self, name: str) -> Field:
        """A control averaged over the halves, [B, 1, 1]."""
        return self._controls[name].mean(1)

    def at_depth(self, canvas: Canvas, depth: float) -> tuple[Field, Field]:
        """Coordinates for a feature in front of (1: the tip of the nose) or behind the head's axis."""
        return canvas.x - self.yaw * depth, canvas.y - self.pitch * depth

    def head(self, canvas: Canvas) -> Field:
        """Distance to the outline of the head: half an ellipse above, half a superellipse below."""
        person = self.person
        x, y = self.at_depth(canvas, 0.2)
        down = y.clamp(min=0)
        a = x.abs() / (person.width * (1 - 0.16 * down * down))
        chin = person.chin + 0.75 * self.jaw
        power = torch.where(y > 0, person.jaw, 2.0)
        height = torch.where(y > 0, chin, torch.as_tensor(person.top))
        b = y.abs() / height
        a1, b1 = (a + 1e-6) ** (power - 1), (b + 1e-6) ** (power - 1)
        total = a1 * a + b1 * b + 1e-6
        k = total ** (1 / power)
        slope = k / total * ((a1 / person.width) ** 2 + (b1 / height) ** 2).sqrt()
        return (k - 1) / (slope + 1e-4)


def _column(values: list[float]) -> Field:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
