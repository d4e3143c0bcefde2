"""Functional twins of the layers: checked calls of ``fused_ops::selective_share`` (:mod:`.op`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from fused_ops.casting import autocasts
from fused_ops.reading import check_dense
from fused_ops.registration import may_be_differentiated
from fused_ops.selective_share import reference
from fused_ops.selective_share.op import selective_share_op

CONVENTIONS = ("accept", "keep")


class ConvFLUWeights(NamedTuple):
    """The four bias-free convolutions of one unit, target of Cx and source of Cy channels, odd kernel k."""

    W_r: Tensor  # [Cy, Cx + Cy, k, k]
    W: Tensor  # [Cx, Cy, k, k]
    U: Tensor  # [Cx, Cx, k, k]
    W_z: Tensor  # [Cx, Cx + Cy, k, k]


class ConvFLUGates(NamedTuple):
    """The gates of one unit: reset r [N, Cy, H, W], candidate h and update z [N, Cx, H, W]."""

    r: Tensor
    h: Tensor
    z: Tensor


class ShareGates(NamedTuple):
    """The gates of both units of a pair."""

    x_from_y: ConvFLUGates
    y_from_x: ConvFLUGates


@overload
def selective_share(
    x: Tensor, y: Tensor, x_from_y: Sequence[Tensor], y_from_x: Sequence[Tensor], *,
    convention: str = ..., recompute: bool = ..., return_gates: Literal[False] = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
@overload
def selective_share(
    x: Tensor, y: Tensor, x_from_y: Sequence[Tensor], y_from_x: Sequence[Tensor], *,
    convention: str = ..., recompute: bool = ..., return_gates: Literal[True],
) -> tuple[Tensor, Tensor, ShareGates]: ...  # fmt: skip
@overload
def selective_share(
    x: Tensor, y: Tensor, x_from_y: Sequence[Tensor], y_from_x: Sequence[Tensor], *,
    convention: str = ..., recompute: bool = ..., return_gates: bool,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, ShareGates]: ...  # fmt: skip


def selective_share(
    x: Tensor,
    y: Tensor,
    x_from_y: Sequence[Tensor],
    y_from_x: Sequence[Tensor],
    *,
    convention: str = "accept",
    recompute: bool = False,
    return_gates: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, ShareGates]:
    """Let two branches exchange features through gates, both directions from the same x and y.

    The pair of ConvFLU units of Zhao et al., ICPR 2020 (equations in
    :mod:`fused_ops.selective_share.reference`).

    Args:
        x: features of the first branch, [N, Cx, H, W]; float32, float64, bfloat16 or float16.
        y: features of the second branch, [N, Cy, H, W], of the same dtype and device.
        x_from_y: ``(W_r, W, U, W_z)`` of the unit that updates x, see :class:`ConvFLUWeights`.
        y_from_x: the same for the unit that updates y (its target is y, its source x).
        convention: "accept" (the paper: z weighs the candidate) or "keep" (the public code: z weighs the
            target).
        recompute: keep only x and y for the backward and compute the gates again there: 2 C instead of 8 C
            elements per pixel for a pair.
        return_gates: also return the gates, differentiable.

    Returns:
        ``(x', y')`` in the shapes of x and y and in the memory format of x, or ``(x', y', ShareGates)``.

    Raises:
        TypeError, ValueError: an argument's type, dtype, device or shape does not fit; the message names it.
            Under autocast dtypes may differ, except that float64, which it leaves alone, mixes with no other.
    """
    _check(x, y, x_from_y, "x_from_y", convention)
    _check_weights(y, x, y_from_x, "y_from_x")
    save = _keeps_gates(recompute, x, y, *x_from_y, *y_from_x)
    keep = convention == "keep"
    x_out, y_out, gates = selective_share_op(x, y, *x_from_y, *y_from_x, keep, return_gates or save, save)
    if not return_gates:
        return x_out, y_out
    h_x, r_x, z_x, r_y, z_y, h_y = gates.split(reference.gate_sizes(x.shape[1], y.shape[1], True), dim=1)
    return x_out, y_out, ShareGates(ConvFLUGates(r_x, h_x, z_x), ConvFLUGates(r_y, h_y, z_y))


@overload
def conv_flu(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], *,
    convention: str = ..., recompute: bool = ..., return_gates: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def conv_flu(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], *,
    convention: str = ..., recompute: bool = ..., return_gates: Literal[True],
) -> tuple[Tensor, ConvFLUGates]: ...  # fmt: skip
@overload
def conv_flu(
    x: Tensor, y: Tensor, weights: Sequence[Tensor], *,
    convention: str = ..., recompute: bool = ..., return_gates: bool,
) -> Tensor | tuple[Tensor, ConvFLUGates]: ...  # fmt: skip


def conv_flu(
    x: Tensor,
    y: Tensor,
    weights: Sequence[Tensor],
    *,
    convention: str = "accept",
    recompute: bool = False,
    return_gates: bool = False,
) -> Tensor | tuple[Tensor, ConvFLUGates]:
    """One ConvFLU unit: target x receives from source y; arguments and errors as in :func:`selective_share`.

    Returns:
        x' [N, Cx, H, W], or ``(x', ConvFLUGates)``.
    """
    _check(x, y, weights, "weights", convention)
    save = _keeps_gates(recompute, x, y, *weights)
    keep = convention == "keep"
    x_out, _, gates = selective_share_op(
        x, y, *weights, None, None, None, None, keep, return_gates or save, save
    )
    if not return_gates:
        return x_out
    h, r, z = gates.split(reference.gate_sizes(x.shape[1], y.shape[1], False), dim=1)
    return x_out, ConvFLUGates(r, h, z)


# --- checks -------------------------------------------------------------------------------------------------


def check_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; allowed are {', '.join(map(repr, CONVENTIONS))}")


def _check(x: Tensor, y: Tensor, weights: Sequence[Tensor], name: str, convention: str) -> None:
    check_convention(convention)
    for argument, value in (("x", x), ("y", y)):
        check_dense(argument, value, " [N, C, H, W]")
        if value.dim() != 4:
            raise ValueError(f"{argument} must have 4 dimensions [N, C, H, W], got shape {list(value.shape)}")
        if not value.dtype.is_floating_point:
            raise TypeError(f"{argument} must be of a floating point dtype, got {value.dtype}")
    if x.shape[0] != y.shape[0] or x.shape[2:] != y.shape[2:]:
        raise ValueError(
            f"x and y must agree in N, H and W, got {list(x.shape)} and {list(y.shape)}; "
            "resize or project one first"
        )
    if y.device != x.device:
        raise ValueError(f"y is on {y.device} and x on {x.device}; both must be on one device")
    if y.dtype != x.dtype and not _autocast_unites(x, y):
        raise TypeError(f"y is {y.dtype} and x is {x.dtype}; both must be of one dtype")
    _check_weights(x, y, weights, name)


def _check_weights(target: Tensor, source: Tensor, weights: Sequence[Tensor], name: str) -> None:
    if not hasattr(weights, "__len__"):  # a unit itself, of which its weights are wanted
        kind = type(weights).__name__
        raise TypeError(f"{name} must be a sequence of the four weights W_r, W, U, W_z, got {kind}")
    if len(weights) != 4:
        raise ValueError(f"{name} must hold the four weights W_r, W, U, W_z, got {len(weights)}")
    W_r, W, U, W_z = weights
    # In small calls checks cost as much as the work, so what is right is found to be so at once.
    if not (
        isinstance(W_r, Tensor)
        and isinstance(W, Tensor)
        and isinstance(U, Tensor)
        and isinstance(W_z, Tensor)
    ):
        kinds = ", ".join(type(weight).__name__ for weight in weights)
        raise TypeError(f"{name} must hold four Tensors W_r, W, U, W_z, got {kinds}")
    t, s, dtype, device = target.shape[1], source.shape[1], target.dtype, target.device
    kernel = W_r.shape[2:]
    shapes = ((s, t + s, *kernel), (t, s, *kernel), (t, t, *kernel), (t, t + s, *kernel))
    if not (
        (W_r.shape, W.shape, U.shape, W_z.shape) == shapes
        and W_r.dtype is W.dtype is U.dtype is W_z.dtype
        and (W_r.dtype is dtype or _autocast_unites(target, W_r))
        and W_r.device == W.device == U.device == W_z.device == device
        and len(kernel) == 2
    ):
        for field, weight, shape in zip(ConvFLUWeights._fields, weights, shapes, strict=True):
            if len(kernel) != 2 or weight.shape != shape:
                raise ValueError(
                    f"{name}.{field} must have shape [{shape[0]}, {shape[1]}, k, k] for a target of {t} "
                    f"and a source of {s} channels, k the same in all four, got {list(weight.shape)}"
                )
            if weight.dtype != dtype and not _autocast_unites(target, weight):
                raise TypeError(f"{name}.{field} is {weight.dtype} and the features are {dtype}")
            if weight.device != device:
                raise ValueError(f"{name}.{field} is on {weight.device} and the features are on {device}")
    if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
        raise ValueError(
            f"{name} has a kernel of {kernel[0]} x {kernel[1]}; only odd kernels keep the image's size"
        )


def _autocast_unites(one: Tensor, other: Tensor) -> bool:
    """Whether autocast gives two tensors of different dtypes one dtype: as everywhere, not float64."""
    return autocasts(one) and torch.float64 not in (one.dtype, other.dtype)


def _keeps_gates(recompute: bool, *tensors: Tensor) -> bool:
    """Not for torch.jit.trace: what is traced serves with gradients and without, and makes gates again."""
    return not (recompute or torch.jit.is_tracing()) and may_be_differentiated(*tensors)
