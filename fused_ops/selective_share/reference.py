"""Selective sharing in plain PyTorch: the definition that every other backend is held against.

ConvFLU of Zhao et al., "Deep Multi-task Learning for Facial Expression Recognition and Synthesis Based on
Selective Feature Sharing", ICPR 2020. Target ``x`` receives from source ``y`` (``*`` a bias-free convolution,
``.`` element-wise):

    r  = sigmoid(W_r * [x, y])         reset gate: which source features may pass
    z  = sigmoid(W_z * [x, y])         update gate
    h  = tanh(W * (r . y) + U * x)     candidate
    x' = (1 - z) . x + z . h           convention "accept": z says how much of the candidate is accepted
    x' = z . x + (1 - z) . h           convention "keep":   z says how much of the target is kept

A pair does this in both directions from the same ``x`` and ``y``. See README.md beside this file for the
backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# The six gates of a pair lie in one tensor, in this order (one matrix product makes the four in the middle).
# "_x" belongs to the unit that updates x, "_y" to the one that updates y.
GATE_ORDER = ("h_x", "r_x", "z_x", "r_y", "z_y", "h_y")

PRODUCT_PIXELS = 128  # in all images together: fewer, and 1x1 convolutions are products of matrices

Unit = tuple[Tensor, Tensor, Tensor, Tensor]  # W_r, W, U, W_z


def gate_sizes(x_channels: int, y_channels: int, pair: bool) -> list[int]:
    """Channels of each gate in GATE_ORDER; a single unit (``pair`` false) has only the first three."""
    x_gates = [x_channels, y_channels, x_channels]
    y_gates = [x_channels, y_channels, y_channels]
    return x_gates + y_gates if pair else x_gates


def is_product(features: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is computed as the product of matrices that a 1x1 kernel makes of it.

    So it is for few pixels, where torch's convolution takes most of its time to rearrange the weights, but
    not for sizes that a graph leaves open: asking for them would narrow it.
    """
    size = features.numel()
    few = isinstance(size, int) and size < PRODUCT_PIXELS * features.shape[1]
    return few and weight.shape[2:] == (1, 1)


def convolve(features: Tensor, weight: Tensor) -> Tensor:
    """A convolution that keeps the image's size: odd kernel, zero padding; in the features' dtype."""
    weight = weight.to(features.dtype)
    if is_product(features, weight):
        return F.linear(features.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)
    return F.conv2d(features, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))


def conv_flu(x: Tensor, y: Tensor, weights: Unit, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One unit: the updated target and its gates ``(x', h, r, z)``."""
    W_r, W, U, W_z = weights
    both = torch.cat([x, y], dim=1)
    r = torch.sigmoid(convolve(both, W_r))
    z = torch.sigmoid(convolve(both, W_z))
    h = torch.tanh(convolve(r * y, W) + convolve(x, U))
    return (h + z * (x - h) if keep else x + z * (h - x)), h, r, z


def forward(
    x: Tensor,
    y: Tensor,
    W_r_x: Tensor,
    W_x: Tensor,
    U_x: Tensor,
    W_z_x: Tensor,
    W_r_y: Tensor | None,
    W_y: Tensor | None,
    U_y: Tensor | None,
    W_z_y: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The pair (or, without the ``_y`` weights, the one unit that updates x): ``(x', y', gates)``.

    Without the second unit y' is empty. ``gates`` holds all gates side by side in the order of GATE_ORDER.
    Weights of another dtype than x and y (parameters in float32 under autocast) are rounded to theirs.
    """
    x_out, h_x, r_x, z_x = conv_flu(x, y, (W_r_x, W_x, U_x, W_z_x), keep)
    if W_r_y is None or W_y is None or U_y is None or W_z_y is None:
        return x_out, x.new_empty(0), torch.cat([h_x, r_x, z_x], dim=1)
    y_out, h_y, r_y, z_y = conv_flu(y, x, (W_r_y, W_y, U_y, W_z_y), keep)
    return x_out, y_out, torch.cat([h_x, r_x, z_x, r_y, z_y, h_y], dim=1)


def backward(
    grad_x_out: Tensor,
    grad_y_out: Tensor | None,
    grad_gates: Tensor | None,
    x: Tensor,
    y: Tensor,
    gates: Tensor | None,
    W_r_x: Tensor,
    W_x: Tensor,
    U_x: Tensor,
    W_z_x: Tensor,
    W_r_y: Tensor | None,
    W_y: Tensor | None,
    U_y: Tensor | None,
    W_z_y: Tensor | None,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Gradients of x, y and the eight weights, empty for weights that are absent.

    ``gates`` is what the forward returned; None recomputes it. Gradients of weights come in their dtypes.
    """
    if gates is None:
        gates = forward(x, y, W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y, keep)[2]
    sizes = gate_sizes(x.shape[1], y.shape[1], pair=W_r_y is not None)
    parts = gates.split(sizes, dim=1)
    grad_parts = grad_gates.split(sizes, dim=1) if grad_gates is not None else (None,) * len(sizes)

    h, r, z = parts[:3]
    grad_h, grad_r, grad_z = grad_parts[:3]
    grad_x, grad_y, *grad_weights = _unit_backward(
        grad_x_out, grad_r, grad_z, grad_h, x, y, r, z, h, (W_r_x, W_x, U_x, W_z_x), keep
    )
    if grad_y_out is None or W_r_y is None or W_y is None or U_y is None or W_z_y is None:
        return grad_x, grad_y, *grad_weights, *(x.new_empty(0) for _ in range(4))
    r, z, h = parts[3:]
    grad_r, grad_z, grad_h = grad_parts[3:]
    more_y, more_x, *more_weights = _unit_backward(
        grad_y_out, grad_r, grad_z, grad_h, y, x, r, z, h, (W_r_y, W_y, U_y, W_z_y), keep
    )
    return grad_x + more_x, grad_y + more_y, *grad_weights, *more_weights


def _unit_backward(
    grad_out: Tensor,
    grad_r: Tensor | None,
    grad_z: Tensor | None,
    grad_h: Tensor | None,
    x: Tensor,
    y: Tensor,
    r: Tensor,
    z: Tensor,
    h: Tensor,
    weights: Unit,
    keep: bool,
) -> tuple[Tensor, ...]:
    """Gradients of ``(x, y, W_r, W, U, W_z)`` of one unit; grad_r, grad_z, grad_h come from outside."""

    def plus(value: Tensor, outside: Tensor | None) -> Tensor:
        return value if outside is None else value + outside

    W_r, W, U, W_z = weights
    both = torch.cat([x, y], dim=1)
    d_h = plus(grad_out * (1 - z) if keep else grad_out * z, grad_h)
    d_z = plus(grad_out * (x - h) if keep else grad_out * (h - x), grad_z)
    pre_h = d_h * (1 - h * h)
    pre_z = d_z * z * (1 - z)
    grad_ry, grad_W = _convolve_backward(pre_h, r * y, W)
    x_by_U, grad_U = _convolve_backward(pre_h, x, U)
    pre_r = plus(grad_ry * y, grad_r) * r * (1 - r)
    both_by_r, grad_W_r = _convolve_backward(pre_r, both, W_r)
    both_by_z, grad_W_z = _convolve_backward(pre_z, both, W_z)
    x_by_gates, y_by_gates = (both_by_r + both_by_z).split([x.shape[1], y.shape[1]], dim=1)
    grad_x = (grad_out * z if keep else grad_out * (1 - z)) + x_by_U + x_by_gates
    grad_y = grad_ry * r + y_by_gates
    return grad_x, grad_y, grad_W_r, grad_W, grad_U, grad_W_z


def _convolve_backward(grad: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dtype, weight = weight.dtype, weight.to(features.dtype)
    if is_product(features, weight):
        rows, grad_rows = (tensor.movedim(1, -1).flatten(0, 2) for tensor in (features, grad))
        grad_features = F.linear(grad.movedim(1, -1), weight.flatten(1).t()).movedim(-1, 1)
        return grad_features, (grad_rows.t() @ rows).view_as(weight).to(dtype)
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    grad_features, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, features, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return grad_features, grad_weight.to(dtype)
