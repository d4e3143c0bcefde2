"""The table of activations: it drives the references, the kernels, what is saved for a backward, the tests.

``csrc/common/activations.h`` repeats the kernel indices (and a test holds both against each other). To add
an activation, add a row here and its formulas in ``csrc/norm_act``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """One activation ``y = f(z)``. The slope argument is ignored by all but leaky_relu.

    Attributes:
        name: what users pass as ``activation=``.
        index: the number by which the kernels know it.
        function: ``(z, slope) -> y``, PyTorch's own.
        derivative: ``(v, slope) -> f'(z)`` in plain PyTorch, where v is what ``backward_needs`` says; the
            value at a kink is the one PyTorch's autograd takes.
        backward_needs: "output" where f'(z) follows from y, "input" where it takes z, else "nothing".
        in_place: ``function`` that overwrites z, where autograd allows that, else None.
        output_is_free: whether ``function`` keeps z and not y for its backward, though y would do, so that
            torch lets the output be written into; ``in_place`` keeps y.
        inverse: ``(y, slope) -> z`` where z follows from y, else None.
        default_slope: the slope used when none is given; None where there is no slope.
    """

    name: str
    index: int
    function: Callable[[Tensor, float], Tensor]
    derivative: Callable[[Tensor, float], Tensor]
    backward_needs: Literal["nothing", "output", "input"]
    in_place: Callable[[Tensor, float], Tensor] | None = None
    output_is_free: bool = False
    inverse: Callable[[Tensor, float], Tensor] | None = None
    default_slope: float | None = None


def _elu_inverse(y: Tensor, slope: float) -> Tensor:
    nearest = (
        torch.finfo(y.dtype).eps / 2 - 1
    )  # the output is rounded to -1 where the input is far below zero
    return torch.where(y > 0, y, torch.log1p(y.clamp(min=nearest)))


def _silu_derivative(z: Tensor, slope: float) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _gelu_derivative(z: Tensor, slope: float) -> Tensor:
    density = torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * torch.special.erfc(z * -math.sqrt(0.5)) + z * density


def _hardswish_derivative(z: Tensor, slope: float) -> Tensor:
    inside = torch.where(z < 3, z / 3 + 0.5, torch.ones_like(z))
    return torch.where(z <= -3, torch.zeros_like(z), inside)


_ROWS = (
    Activation(
        "identity", 0, lambda z, a: z, lambda z, a: torch.ones_like(z), "nothing", inverse=lambda y, a: y
    ),
    Activation(
        "relu",
        1,
        lambda z, a: F.relu(z),
        lambda y, a: (y > 0).to(y.dtype),
        "output",
        in_place=lambda z, a: torch.relu_(z),
    ),
    Activation(
        "leaky_relu",
        2,
        lambda z, a: F.leaky_relu(z, a),
        lambda y, a: torch.where(y > 0, torch.ones_like(y), a),
        "output",
        in_place=F.leaky_relu_,
        output_is_free=True,
        inverse=lambda y, a: torch.where(y > 0, y, y / a),
        default_slope=0.01,
    ),
    Activation("silu", 3, lambda z, a: F.silu(z), _silu_derivative, "input"),
    Activation("gelu", 4, lambda z, a: F.gelu(z), _gelu_derivative, "input"),
    Activation(
        "tanh",
        5,
        lambda z, a: torch.tanh(z),
        lambda y, a: 1 - y * y,
        "output",
        in_place=lambda z, a: torch.tanh_(z),
    ),
    Activation(
        "sigmoid",
        6,
        lambda z, a: torch.sigmoid(z),
        lambda y, a: y * (1 - y),
        "output",
        in_place=lambda z, a: torch.sigmoid_(z),
    ),
    Activation(
        "elu",
        7,
        lambda z, a: F.elu(z),
        lambda y, a: torch.where(y > 0, torch.ones_like(y), y + 1),
        "output",
        in_place=lambda z, a: F.elu_(z),
        output_is_free=True,
        inverse=_elu_inverse,
    ),
    Activation("hardswish", 8, lambda z, a: F.hardswish(z), _hardswish_derivative, "input"),
)

ACTIVATIONS: dict[str, Activation] = {row.name: row for row in _ROWS}
BY_INDEX: tuple[Activation, ...] = _ROWS


def resolve(activation: str, negative_slope: float | None) -> tuple[int, float]:
    """The kernel index and the slope to pass on for a user's ``activation`` and ``negative_slope``.

    Raises:
        TypeError: the activation is not a string, the slope not a number.
        ValueError: unknown name; a slope for an activation that has none; a slope below zero, from whose
            output the sign of the input cannot be told.
    """
    row = ACTIVATIONS.get(activation) if isinstance(activation, str) else None
    if row is None:
        known = ", ".join(map(repr, ACTIVATIONS))
        kind = ValueError if isinstance(activation, str) else TypeError
        raise kind(f"activation is {activation!r}; known activations are {known}")
    if negative_slope is None:
        return row.index, row.default_slope or 0.0
    if row.default_slope is None:
        raise ValueError(
            f"negative_slope is {negative_slope!r}, but {activation!r} has no slope; leave it out"
        )
    is_number = hasattr(negative_slope, "__float__")
    if not is_number or not 0 <= negative_slope < math.inf:
        error = ValueError if is_number else TypeError
        raise error(f"negative_slope is {negative_slope!r}; it must be a number, 0 or above")
    return row.index, float(negative_slope)
