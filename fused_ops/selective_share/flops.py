"""The FLOP of a call of ``fused_ops::selective_share``: its products, two for each weight and pixel.

Convolutions alone, as torch counts a network: what is done element by element counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WEIGHTS = 8

Shape = Sequence[int]


def forward(x: Shape, y: Shape, *rest: Any, out_shape: Any) -> int:
    return _products(x, rest[:WEIGHTS])


def backward(
    grad_x_out: Shape, grad_y_out: Any, grad_gates: Any, x: Shape, y: Shape, gates: Any, *rest: Any,
    out_shape: Any,
) -> int:  # fmt: skip
    """A product for the gradient of each factor; without ``gates`` those of the forward once more."""
    return (2 if gates is not None else 3) * _products(x, rest[:WEIGHTS])


def _products(x: Shape, weights: Sequence[Shape | None]) -> int:
    pixels = x[0] * math.prod(x[2:])
    return 2 * pixels * sum(math.prod(weight) for weight in weights if weight is not None)
