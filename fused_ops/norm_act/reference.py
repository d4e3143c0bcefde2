"""The definition of ``norm_act`` and of its gradient, in plain PyTorch (the README beside it derives it).

    x'   = x + noise_scale * noise
    xhat = (x' - mean) * rstd                      rstd = 1 / sqrt(var + eps)
    z    = xhat * gamma + beta + residual
    y    = activation(z)

Shapes: x and residual [N, C, *spatial], noise [N, 1, *spatial], gamma and beta [C] or [N, C]. The
statistics are over (N, *spatial) per channel, [C], where ``groups`` is 0; over (C / groups, *spatial) per
sample, [N * groups], otherwise; or they are given, [C]. All arithmetic is done in their dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fused_ops.activations import BY_INDEX
from fused_ops.norm_act.layout import memory_format, statistics_dtype

RESTORE_ERROR = (
    "norm_act: with inplace=True the input is recovered from the output, for which a weight is too small "
    "against its bias; use inplace=False"
)


def norm_act(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    groups: int,
    eps: float,
    activation: int,
    slope: float,
    inplace: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward: y, and the mean and biased variance it used (empty where these were given).

    ``inplace`` says what is kept for the backward, which makes no difference here.
    """
    z, mean, var = preactivation(x, gamma, beta, residual, noise, noise_scale, mean, var, groups, eps)
    y = BY_INDEX[activation].function(z, slope).to(x.dtype)
    return y.contiguous(memory_format=memory_format(x)), mean, var


def preactivation(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """z in the dtype of the statistics, with mean and var as :func:`norm_act` returns them."""
    given = mean is not None and var is not None
    axes = _Axes(x, 0 if given else groups)
    xn = _noisy(x, noise, noise_scale)
    if mean is None or var is None:
        mean, var = axes.statistics(xn)
    z = _affine(axes, _normalize(axes, xn, mean, var, eps), gamma, beta)
    if residual is not None:
        z = z + residual
    # Detached where the definition itself is differentiated: the op's statistics are not differentiable.
    return (z, mean.new_empty(0), var.new_empty(0)) if given else (z, mean.detach(), var.detach())


def norm_act_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    mean: Tensor,
    var: Tensor,
    given: bool,
    groups: int,
    eps: float,
    activation: int,
    slope: float,
    restore: bool,
    need_x: bool,
    need_affine: bool,
    need_residual: bool,
    need_noise: bool,
    need_noise_scale: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Backward: the gradients of x, gamma, beta, residual, noise, noise_scale; empty where not needed.

    The activation's derivative is taken from y where y is passed, else from z, which is computed again. With
    ``restore`` x holds y, and the input is computed from it (:func:`restored_input`).
    """
    row = BY_INDEX[activation]
    like = x
    if restore:
        x, y = restored_input(x, gamma, beta, mean, var, given, groups, eps, activation, slope), x
    axes = _Axes(x, 0 if given else groups)
    xhat = _normalize(axes, _noisy(x, noise, noise_scale), mean, var, eps)
    grad_z = grad.to(xhat.dtype)
    if row.backward_needs != "nothing":
        if y is not None and row.backward_needs == "output":
            evidence = y.to(xhat.dtype)
        else:
            evidence = _affine(axes, xhat, gamma, beta)
            if residual is not None:
                evidence = evidence + residual
            if row.backward_needs == "output":
                evidence = row.function(evidence, slope)
        grad_z = grad_z * row.derivative(evidence, slope)

    grads = [like.new_empty(0) for _ in range(6)]
    if need_affine and gamma is not None:
        grads[1] = axes.sum_to(grad_z * xhat, gamma)
    if need_affine and beta is not None:
        grads[2] = axes.sum_to(grad_z, beta)
    if need_residual:
        grads[3] = _like_x(grad_z, like)
    if need_x or need_noise or need_noise_scale:
        grad_x = grad_z if gamma is None else grad_z * axes.spread_affine(gamma)
        if not given:
            grad_x = grad_x - axes.mean(grad_x) - xhat * axes.mean(grad_x * xhat)
        grad_x = grad_x * torch.rsqrt(axes.spread_statistic(var) + eps)
        if need_x:
            grads[0] = _like_x(grad_x, like)
        if noise is not None and noise_scale is not None:
            over_channels = grad_x.sum(1, keepdim=True)
            if need_noise:
                grads[4] = (over_channels * noise_scale).to(noise.dtype)
            if need_noise_scale:
                grads[5] = (over_channels * noise).sum().to(noise_scale.dtype).reshape(noise_scale.shape)
    return grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]


def norm_act_backward_through_statistics(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    mean: Tensor,
    var: Tensor,
    given: bool,
    groups: int,
    *others: Any,
) -> tuple[Tensor, ...]:
    """The same function, to be differentiated: mean and var are computed from x, whose functions they are."""
    if others[3]:
        raise RuntimeError("norm_act: with inplace=True there are no second derivatives; use inplace=False")
    if not given:
        mean, var = _Axes(x, groups).statistics(_noisy(x, noise, noise_scale))
    return norm_act_backward(
        grad, x, y, gamma, beta, residual, noise, noise_scale, mean, var, given, groups, *others
    )


def restored_input(
    y: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    var: Tensor,
    given: bool,
    groups: int,
    eps: float,
    activation: int,
    slope: float,
) -> Tensor:
    """The input x from the output y, in the dtype of the statistics, for an activation with an inverse.

    The idea of in-place activated batch norm (Rota Bulò, Porzi and Kontschieder, CVPR 2018). y is rounded, so
    xhat is off by some ``eps(dtype) (|xhat| + |beta / gamma|)``.

    Raises:
        RuntimeError: that is over an eighth of a standard deviation somewhere, or gamma is zero.
    """
    axes = _Axes(y, 0 if given else groups)
    check_restorable(y.dtype, gamma, beta)
    inverse = BY_INDEX[activation].inverse
    z = y.to(mean.dtype) if inverse is None else inverse(y.to(mean.dtype), slope)
    if beta is not None:
        z = z - axes.spread_affine(beta)
    if gamma is not None:
        z = z / axes.spread_affine(gamma)
    return z * torch.sqrt(axes.spread_statistic(var) + eps) + axes.spread_statistic(mean)


def check_restorable(dtype: torch.dtype, gamma: Tensor | None, beta: Tensor | None) -> None:
    """Raise RuntimeError where gamma is too small, against beta, for :func:`restored_input`."""
    if gamma is None:
        return
    least = beta.abs() * (8 * torch.finfo(dtype).eps) if beta is not None else torch.zeros_like(gamma)
    good = gamma.abs() > least
    if gamma.device.type != "cpu":  # asking would wait for the device
        torch._assert_async(good.all(), RESTORE_ERROR)
    elif not bool(good.all()):
        channel = int((~good).flatten().nonzero()[0]) % gamma.size(-1)
        raise RuntimeError(f"{RESTORE_ERROR} (channel {channel})")


def _noisy(x: Tensor, noise: Tensor | None, noise_scale: Tensor | None) -> Tensor:
    x = x.to(statistics_dtype(x.dtype))
    return x if noise is None or noise_scale is None else x + noise_scale * noise


def _normalize(axes: _Axes, x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return (x - axes.spread_statistic(mean)) * torch.rsqrt(axes.spread_statistic(var) + eps)


def _affine(axes: _Axes, xhat: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    z = xhat if gamma is None else xhat * axes.spread_affine(gamma)
    return z if beta is None else z + axes.spread_affine(beta)


def _like_x(grad: Tensor, x: Tensor) -> Tensor:
    return grad.to(x.dtype).contiguous(memory_format=memory_format(x))


@dataclass(frozen=True)
class _Axes:
    """How the small tensors spread over x [N, C, *spatial] and how x sums up to them."""

    x: Tensor
    groups: int

    def statistics(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of values, shaped like x: [C] or [N * groups]."""
        if values.numel() == 0:  # torch warns of the variance of nothing, even of no statistics
            mean = self._split(values).mean(self._dims()).flatten()
            return mean, torch.zeros_like(mean)
        var, mean = torch.var_mean(self._split(values), self._dims(), correction=0)
        return mean.flatten(), var.flatten()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values over each statistic's elements, to broadcast over x."""
        return self._join(self._split(values).mean(self._dims(), keepdim=True))

    def spread_statistic(self, statistic: Tensor) -> Tensor:
        """[C] or [N * groups] -> a shape that broadcasts over x."""
        if not self.groups:
            return self.spread_affine(statistic)
        ones = (1,) * (self.x.dim() - 1)
        return self._join(statistic.view(self.x.size(0), self.groups, *ones))

    def spread_affine(self, parameter: Tensor) -> Tensor:
        """[C] or [N, C] -> [1 or N, C, 1, ...]."""
        rows = parameter if parameter.dim() == 2 else parameter[None]
        return rows.view(*rows.shape, *(1,) * (self.x.dim() - 2))

    def sum_to(self, values: Tensor, parameter: Tensor) -> Tensor:
        """The sum of values, shaped like x, over what the parameter, [C] or [N, C], was spread over."""
        per_sample = values.flatten(2).sum(2) if values.dim() > 2 else values
        total = per_sample if parameter.dim() == 2 else per_sample.sum(0)
        return total.to(parameter.dtype)

    def _dims(self) -> list[int]:
        return list(range(2, self.x.dim() + 1)) if self.groups else [0, *range(2, self.x.dim())]

    def _split(self, values: Tensor) -> Tensor:
        """[N, C, ...] -> [N, groups, C / groups, ...]"""
        return values.unflatten(1, (self.groups, self.x.size(1) // self.groups)) if self.groups else values

    def _join(self, values: Tensor) -> Tensor:
        """[N, groups, 1, ...] -> [N, C, ...]"""
        if not self.groups:
            return values
        return values.repeat_interleave(self.x.size(1) // self.groups, 1).squeeze(2)
