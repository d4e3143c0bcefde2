"""Functional twins of torch's norms with an activation, and optionally a residual and pooling, in one pass.

    maxpool(activation(norm(x) * weight + bias + residual))

Arguments follow ``torch.nn.functional`` in order and meaning; ``activation`` is a name of
:data:`fused_ops.activations.ACTIVATIONS`. Common to all of them:

* x: [N, C, *spatial], float32, float64, bfloat16 or float16, any strides; the result has its shape, dtype
  and memory format (channels_last stays channels_last).
* weight, bias: of x's dtype or, for low precision x, float32. residual: like x.
* Mean and variance are computed stably in float32 (float64 for float64), biased for the normalization.
* For the backward x and the small statistics are kept, and with a residual y or the residual, nothing else.
* With ``inplace=True`` y is kept instead of x, as in in-place activated batch norm (Rota Bulò, Porzi and
  Kontschieder, CVPR 2018): nothing beyond what the next layer keeps anyway. x is not written to; where
  nothing else holds it, its memory is free after the call. The backward computes x from y, so the activation
  must have an inverse (identity, leaky_relu with a slope above 0, elu in float32 or float64), there is no
  residual and no second derivative, and xhat is off by some ``eps(dtype) (|xhat| + |bias / weight|)``; the
  backward raises RuntimeError where that is more than an eighth.

* With ``pool=2`` the largest of each 2 x 2 pixels follows, as ``F.max_pool2d(y, 2)``, in the same pass: the
  un-pooled result is neither written nor kept (for silu, gelu and hardswish, which decrease somewhere, it is,
  and pooled in a second step). x is [N, C, H, W], H and W at least 2.

Raises TypeError for a wrong type or dtype, ValueError for a wrong shape, device or value; the message names
the argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import _StopRecomputationError

from fused_ops.activations import ACTIVATIONS, resolve
from fused_ops.casting import autocasts
from fused_ops.norm_act import running, stepwise
from fused_ops.norm_act.after import After
from fused_ops.norm_act.layout import PLAIN, memory_format, statistics_dtype
from fused_ops.norm_act.op import norm_act_op
from fused_ops.norm_act.pooled import norm_act_pool_op
from fused_ops.reading import check_dense
from fused_ops.registration import may_be_differentiated


def batch_norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    negative_slope: float | None = None,
    residual: Tensor | None = None,
    inplace: bool = False,
    pool: int = 1,
) -> Tensor:
    """Batch norm (Ioffe and Szegedy, 2015) + residual + activation; arguments as ``F.batch_norm``.

    In training the statistics are those of the batch, and the running ones, where passed, are moved towards
    them in place by ``momentum`` (with the unbiased variance); otherwise the running ones, [C], normalize.

    Raises:
        ValueError: also, in training, when there is but one value per channel.
    """
    after = _check(x, 2, residual, eps, activation, negative_slope, inplace, pool)
    alike = _check_channels(x, weight, bias, running_mean, running_var)
    _check_running(running_mean, running_var, required=not training)
    count = _count(x) if training else 0
    if count == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {list(x.shape)}"
        )
    if alike and stepwise.is_better(x, "batch" if training else "running", after):
        stats = stepwise.held(running_mean, training), stepwise.held(running_var, training), training
        y = torch.batch_norm(x, weight, bias, *stats, momentum, eps, False)
        return stepwise.finish(x, y, after, memory_format(x) if 1 in x.shape else None)
    mean, var = (None, None) if training else (running_mean, running_var)
    try:
        y, mean, var = _call(x, weight, bias, mean, var, 0, eps, after)
    except _StopRecomputationError:
        if count:
            _update_by_norm(torch.batch_norm, x, running_mean, running_var, momentum, eps)
        raise
    if count and running_mean is not None and running_var is not None:
        running.move(running_mean, running_var, mean, var, momentum, count)
    return y


def instance_norm_act(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    negative_slope: float | None = None,
    residual: Tensor | None = None,
    inplace: bool = False,
    pool: int = 1,
) -> Tensor:
    """Instance norm (Ulyanov et al., 2016) + residual + activation; arguments as ``F.instance_norm``.

    x is [N, C, *spatial] with at least one spatial dimension.

    Raises:
        ValueError: also, with statistics of the input, when there is but one spatial element.
    """
    after = _check(x, 3, residual, eps, activation, negative_slope, inplace, pool)
    alike = _check_channels(x, weight, bias, running_mean, running_var)
    _check_running(running_mean, running_var, required=not use_input_stats)
    if use_input_stats:
        _check_spatial(x)
    if alike and stepwise.is_better(x, "instance" if use_input_stats else "running", after):
        moved = use_input_stats
        stats = stepwise.held(running_mean, moved), stepwise.held(running_var, moved), use_input_stats
        # One image's is its batch norm; torch 2.13's instance norm misreads its gradient in channels_last,
        # which of one channel there is none, while batch norm of one in channels_last is slow.
        alone = x.size(0) == 1 < x.size(1)
        norm = torch.batch_norm if alone else torch.instance_norm
        y = norm(x, weight, bias, *stats, momentum, eps, False)
        return stepwise.finish(x, y, after, memory_format(x) if alone else torch.contiguous_format)
    if not use_input_stats:
        return _call(x, weight, bias, running_mean, running_var, 0, eps, after)[0]
    try:
        y, mean, var = _call(x, weight, bias, None, None, x.size(1), eps, after)
    except _StopRecomputationError:
        if x.numel():
            _update_by_norm(torch.instance_norm, x, running_mean, running_var, momentum, eps)
        raise
    if running_mean is not None and running_var is not None and x.numel():
        n, c = x.shape[:2]
        running.move(
            running_mean,
            running_var,
            mean.view(n, c).mean(0),
            var.view(n, c).mean(0),
            momentum,
            _count(x) // n,
        )
    return y


def group_norm_act(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    negative_slope: float | None = None,
    residual: Tensor | None = None,
    inplace: bool = False,
    pool: int = 1,
) -> Tensor:
    """Group norm (Wu and He, 2018) + residual + activation; arguments as ``F.group_norm``."""
    after = _check(x, 2, residual, eps, activation, negative_slope, inplace, pool)
    alike = _check_channels(x, weight, bias)
    if num_groups < 1 or x.size(1) % num_groups:
        raise ValueError(f"num_groups is {num_groups}; it must divide the number of channels, {x.size(1)}")
    if x.numel() == num_groups:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {list(x.shape)} "
            f"for {num_groups} groups"
        )
    # Groups of one channel cost torch nothing more in planes, but a lot in channels_last.
    alone = num_groups == x.size(1) and not x.is_contiguous()
    # torch 2.13's group norm of a bias without a weight has no backward.
    alike = alike and (weight is not None or bias is None)
    if alike and stepwise.is_better(x, "instance" if alone else "group", after):
        y = torch.group_norm(x, num_groups, weight, bias, eps, False)
        return stepwise.finish(x, y, after)
    return _call(x, weight, bias, None, None, num_groups, eps, after)[0]


def adain(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    noise: Tensor | None = None,
    noise_scale: Tensor | None = None,
    *,
    eps: float = 1e-5,
    activation: str = "identity",
    negative_slope: float | None = None,
) -> Tensor:
    """Adaptive instance norm (Huang and Belongie, 2017) with noise (Karras et al., 2019):

        activation(instance_norm(x + noise_scale * noise) * gamma + beta)

    Args:
        gamma, beta: [N, C], one scale and shift per sample and channel.
        noise: [N, 1, *spatial], of x's dtype; needs noise_scale, a tensor of one element, of x's dtype or,
            for low precision x, float32.

    Raises:
        ValueError: also when there is but one spatial element.
    """
    after = _check(x, 3, None, eps, activation, negative_slope)
    for name, value in (("gamma", gamma), ("beta", beta)):
        _check_small(x, name, value, x.shape[:2], "[N, C]")
    if (noise is None) != (noise_scale is None):
        raise ValueError("noise and noise_scale go together: pass both or none")
    if noise is not None and noise_scale is not None:
        _check_large(x, "noise", noise, (x.size(0), 1, *x.shape[2:]), "[N, 1, *spatial]")
        if not isinstance(noise_scale, Tensor) or noise_scale.numel() != 1:
            raise TypeError(f"noise_scale must be a tensor of one element, got {_describe(noise_scale)}")
        _check_small(x, "noise_scale", noise_scale, noise_scale.shape, "of one element")
    _check_spatial(x)
    return _call(x, gamma, beta, None, None, x.size(1), eps, after, noise, noise_scale)[0]


# --- the call -----------------------------------------------------------------------------------------------


def _call(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    groups: int,
    eps: float,
    after: After,
    noise: Tensor | None = None,
    noise_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    residual, activation, slope, inplace, pool = after
    if pool > 1 and after.is_monotone():
        # What torch.jit.trace makes may be differentiated at any later call.
        differentiated = torch.jit.is_tracing() or may_be_differentiated(x, gamma, beta, residual)
        y, mean, var, _ = norm_act_pool_op(
            x, gamma, beta, residual, mean, var, groups, eps, activation, slope, differentiated
        )
        return y, mean, var
    y, mean, var = norm_act_op(
        x, gamma, beta, residual, noise, noise_scale, mean, var, groups, eps, activation, slope, inplace
    )
    return after.pooled(y), mean, var


def _update_by_norm(
    norm: Callable[..., Tensor],
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> None:
    """Move the running statistics, where torch.utils.checkpoint ends a call as soon as it has given what was
    to be kept: torch's own norms have moved them by then, a second time."""
    if running_mean is not None and running_var is not None:
        with torch.no_grad(), _disable_current_modes():  # a selective checkpoint's knows but what it has seen
            stats = stepwise.held(running_mean, True), stepwise.held(running_var, True)
            norm(x, None, None, *stats, True, momentum, eps, False)


# --- checks -------------------------------------------------------------------------------------------------


def _check(
    x: Tensor,
    least_dims: int,
    residual: Tensor | None,
    eps: float,
    activation: str,
    negative_slope: float | None,
    inplace: bool = False,
    pool: int = 1,
) -> After:
    check_dense("x", x)
    if not x.dtype.is_floating_point:
        raise TypeError(f"x must be of a floating point dtype, got {x.dtype}")
    if x.dim() < least_dims:
        shape = "[N, C, *spatial] with a spatial dimension" if least_dims == 3 else "[N, C, *spatial]"
        raise ValueError(f"x must be {shape}, got shape {list(x.shape)}")
    if residual is not None:
        _check_large(x, "residual", residual, x.shape, "x's shape")
    if not eps > 0:
        raise ValueError(f"eps is {eps!r}; it must be above 0")
    index, slope = resolve(activation, negative_slope)
    if inplace:
        check_inplace(activation, slope, pool)
        if residual is not None:
            raise ValueError("inplace is True; with a residual x does not follow from the output, use False")
        if activation == "elu" and torch.finfo(x.dtype).bits < 32:
            raise TypeError(f"inplace is True; elu needs float32 or float64 for it, x is {x.dtype}")
    if pool != 1 or pool is True:
        check_pool(pool)
        if x.dim() != 4 or x.size(2) < pool or x.size(3) < pool:
            raise ValueError(
                f"x must be [N, C, H, W], H and W at least {pool}, to be pooled; got {list(x.shape)}"
            )
    return After(residual, index, slope, inplace, pool)


def check_inplace(activation: str, slope: float, pool: int = 1) -> None:
    """Raise ValueError unless the activation's input follows from the output."""
    if pool != 1:
        raise ValueError("inplace is True; x does not follow from a pooled output, use False")
    if ACTIVATIONS[activation].inverse is None:
        known = ", ".join(repr(name) for name, row in ACTIVATIONS.items() if row.inverse is not None)
        raise ValueError(f"inplace is True; activation must then be one of {known}, got {activation!r}")
    if activation == "leaky_relu" and slope == 0:
        raise ValueError("inplace is True; negative_slope must then be above 0, got 0")


def check_pool(pool: int) -> None:
    """Raise ValueError unless ``pool`` is 1 or 2."""
    if pool not in (1, 2) or isinstance(pool, bool):  # True asks for pooling, and is equal to 1
        raise ValueError(f"pool is {pool!r}; it must be 1 (no pooling) or 2 (max-pooling of 2 x 2 pixels)")


def _check_channels(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
) -> bool:
    """Whether all that are given are plain dense tensors of x's own dtype, which torch's norms take as well.

    In small calls checks cost as much as the work, so what is right is found to be so at once.
    """
    dtype, device, on_cpu, shape = x.dtype, x.device, x.is_cpu, (x.size(1),)
    wide, alike = statistics_dtype(dtype), True
    values = (weight, bias, running_mean, running_var)
    for name, value in zip(("weight", "bias", "running_mean", "running_var"), values, strict=True):
        if value is None:
            continue
        if not (
            type(value) in PLAIN
            and (value.dtype is dtype or value.dtype is wide)
            and value.shape == shape
            and (value.is_cpu if on_cpu else value.device == device)
        ):
            _check_small(x, name, value, shape, "[C]")
            alike = False
        elif value.dtype is not dtype or not value.is_contiguous():  # torch 2.13 reads slices as if dense
            alike = False
    return alike


def _check_small(x: Tensor, name: str, value: Tensor, shape: tuple[int, ...], wanted: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor {wanted}, got {_describe(value)}")
    if value.shape != shape:
        raise ValueError(f"{name} must be {wanted} = {list(shape)}, got shape {list(value.shape)}")
    allowed = (x.dtype, statistics_dtype(x.dtype))
    if value.dtype not in allowed and not autocasts(x):
        raise TypeError(f"{name} is {value.dtype} and x is {x.dtype}; {name} must be {_either(allowed)}")
    _check_device(x, name, value)


def _check_large(x: Tensor, name: str, value: Tensor, shape: tuple[int, ...], wanted: str) -> None:
    check_dense(name, value)
    if value.shape != shape:
        raise ValueError(f"{name} must have {wanted}, {list(shape)}, got shape {list(value.shape)}")
    if value.dtype != x.dtype and not autocasts(x):
        raise TypeError(f"{name} is {value.dtype} and x is {x.dtype}; both must be of one dtype")
    _check_device(x, name, value)


def _check_device(x: Tensor, name: str, value: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device} and x on {x.device}; both must be on one device")


def _check_running(mean: Tensor | None, var: Tensor | None, required: bool) -> None:
    if (mean is None or var is None) and (required or mean is not var):
        raise ValueError("running_mean and running_var must both be given, or both left out in training")


def _check_spatial(x: Tensor) -> None:
    if math.prod(x.shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {list(x.shape)}"
        )


def _count(x: Tensor) -> int:
    """The number of values per channel."""
    return x.size(0) * math.prod(x.shape[2:])


def _describe(value: object) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _either(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(dict.fromkeys(map(str, dtypes)))
