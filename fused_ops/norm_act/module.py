"""Drop-in norm modules: torch.nn's, with an activation and an optional residual in the same pass.

They subclass their torch.nn twins and add no parameter or buffer, so stock checkpoints load and
``isinstance`` holds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from fused_ops.activations import resolve
from fused_ops.leaf import recorded_call, refuse_script
from fused_ops.norm_act.after import After
from fused_ops.norm_act.functional import (
    adain,
    batch_norm_act,
    check_inplace,
    check_pool,
    group_norm_act,
    instance_norm_act,
)
from fused_ops.reading import attribute, check_dense, check_sizes


class WithActivation(nn.Module):
    """What the modules share: the activation's name and slope, checked, and shown when printed."""

    activation: str
    negative_slope: float | None
    inplace: bool = False
    pool: int = 1
    __prepare_scriptable__ = refuse_script

    def _set_activation(
        self, activation: str, negative_slope: float | None, inplace: bool = False, pool: int = 1
    ) -> None:
        _, slope = resolve(activation, negative_slope)
        check_pool(pool)
        if inplace:
            check_inplace(activation, slope, pool)
        self.activation, self.negative_slope = activation, negative_slope
        self.inplace, self.pool = inplace, pool

    def _in_steps(self, z: Tensor, residual: Any = None) -> Tensor:
        """What follows the norm, whose output is z, in torch's own steps."""
        how = resolve(self.activation, self.negative_slope)
        return After(residual, *how, self.inplace, self.pool).apply(z)

    def extra_repr(self) -> str:
        found = [super().extra_repr(), f"activation={self.activation!r}"]
        if self.negative_slope is not None:
            found.append(f"negative_slope={self.negative_slope}")
        if self.inplace:
            found.append("inplace=True")
        if self.pool != 1:
            found.append(f"pool={self.pool}")
        return ", ".join(filter(None, found))


# What the modules compute, of torch's norms as well: `fused_ops.fuse` leaves these as they are. What follows
# is handed on one by one, since a dictionary of it would cost a small call a fifteenth of its time.


def batch_norm(
    norm: nn.BatchNorm2d,
    x: Tensor,
    residual: Tensor | None,
    activation: str,
    negative_slope: float | None,
    inplace: bool = False,
    pool: int = 1,
) -> Tensor:
    check_dense("x", x)
    norm._check_input_dim(x)
    momentum = 0.0 if norm.momentum is None else norm.momentum
    training = norm.training
    tracks = training and norm.track_running_stats
    if tracks and (batches := attribute(norm, norm._buffers, "num_batches_tracked")) is not None:
        batches.add_(1)
        if norm.momentum is None:  # cumulative average
            momentum = 1.0 / float(batches)
    mean = var = None
    if tracks or not training:
        mean = attribute(norm, norm._buffers, "running_mean")
        var = attribute(norm, norm._buffers, "running_var")
    return batch_norm_act(
        x,
        mean,
        var,
        attribute(norm, norm._parameters, "weight"),
        attribute(norm, norm._parameters, "bias"),
        training or mean is None,
        momentum,
        norm.eps,
        activation=activation,
        negative_slope=negative_slope,
        residual=residual,
        inplace=inplace,
        pool=pool,
    )


def instance_norm(
    norm: nn.InstanceNorm2d,
    x: Tensor,
    residual: Tensor | None,
    activation: str,
    negative_slope: float | None,
    inplace: bool = False,
    pool: int = 1,
) -> Tensor:
    check_dense("x", x)
    norm._check_input_dim(x)
    if x.size(-3) != norm.num_features:
        raise ValueError(f"x must have num_features = {norm.num_features} channels, got {list(x.shape)}")
    alone = x.dim() == 3
    if alone:
        x = x[None]
        if residual is not None:
            check_dense("residual", residual)
            residual = residual[None]
    z = instance_norm_act(
        x,
        attribute(norm, norm._buffers, "running_mean"),
        attribute(norm, norm._buffers, "running_var"),
        attribute(norm, norm._parameters, "weight"),
        attribute(norm, norm._parameters, "bias"),
        norm.training or not norm.track_running_stats,
        0.0 if norm.momentum is None else norm.momentum,
        norm.eps,
        activation=activation,
        negative_slope=negative_slope,
        residual=residual,
        inplace=inplace,
        pool=pool,
    )
    return z[0] if alone else z


def group_norm(
    norm: nn.GroupNorm,
    x: Tensor,
    residual: Tensor | None,
    activation: str,
    negative_slope: float | None,
    inplace: bool = False,
    pool: int = 1,
) -> Tensor:
    return group_norm_act(
        x,
        norm.num_groups,
        attribute(norm, norm._parameters, "weight"),
        attribute(norm, norm._parameters, "bias"),
        norm.eps,
        activation=activation,
        negative_slope=negative_slope,
        residual=residual,
        inplace=inplace,
        pool=pool,
    )


class FusedBatchNormAct2d(WithActivation, nn.BatchNorm2d):
    """``activation(BatchNorm2d(x) + residual)``; x and residual [N, C, H, W].

    To synchronize it over processes use :func:`fused_ops.norm_act.convert_sync_batchnorm`: torch's own
    conversion would drop the activation. So would ``torch.nn.utils.fusion.fuse_conv_bn_eval``, which folds it
    into a convolution, and ``torch.utils.mkldnn.to_mkldnn``: both take it for the plain batch norm that it is
    an instance of.

    Args:
        activation: a name of :data:`fused_ops.activations.ACTIVATIONS`.
        negative_slope: for leaky_relu, default 0.01.
        inplace: keep the output for the backward instead of the input, for less memory
            (:mod:`fused_ops.norm_act.functional` says for which activations, and at what cost in accuracy).
        pool: 2 for max-pooling of 2 x 2 pixels in the same pass, as ``nn.MaxPool2d(2)`` behind it.
        The others as in :class:`torch.nn.BatchNorm2d`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str = "identity",
        negative_slope: float | None = None,
        inplace: bool = False,
        pool: int = 1,
        **others: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **others)
        self._set_activation(activation, negative_slope, inplace, pool)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if isinstance(x, Proxy):
            return recorded_call(self, x, residual)
        return batch_norm(self, x, residual, self.activation, self.negative_slope, self.inplace, self.pool)


class FusedInstanceNormAct2d(WithActivation, nn.InstanceNorm2d):
    """``activation(InstanceNorm2d(x) + residual)``; x and residual [N, C, H, W] or [C, H, W].

    Args: as :class:`FusedBatchNormAct2d`; the others as in :class:`torch.nn.InstanceNorm2d`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str = "identity",
        negative_slope: float | None = None,
        inplace: bool = False,
        pool: int = 1,
        **others: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **others)
        self._set_activation(activation, negative_slope, inplace, pool)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if isinstance(x, Proxy):
            return recorded_call(self, x, residual)
        return instance_norm(self, x, residual, self.activation, self.negative_slope, self.inplace, self.pool)


class FusedGroupNormAct(WithActivation, nn.GroupNorm):
    """``activation(GroupNorm(x) + residual)``; x and residual [N, C, *spatial].

    Under autocast of a GPU the result has x's dtype, where torch's group norm gives float32.

    Args: as :class:`FusedBatchNormAct2d`; the others as in :class:`torch.nn.GroupNorm`.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str = "identity",
        negative_slope: float | None = None,
        inplace: bool = False,
        pool: int = 1,
        **others: Any,
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine, device, dtype, **others)
        self._set_activation(activation, negative_slope, inplace, pool)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if isinstance(x, Proxy):
            return recorded_call(self, x, residual)
        return group_norm(self, x, residual, self.activation, self.negative_slope, self.inplace, self.pool)


class Style(nn.Linear):
    """A layer of its own, so that whoever resets every module of a network finds the same start."""

    def reset_parameters(self) -> None:
        super().reset_parameters()  # is drawn over, but a seed gives the networks that it always gave
        nn.init.xavier_normal_(self.weight, gain=0.1)
        nn.init.zeros_(self.bias)


class FusedAdaIN(WithActivation):
    """Noise, instance norm, and a scale and shift that a condition chooses:

        activation(instance_norm(x + noise_scale * noise) * gamma + beta),  [gamma, beta] = style(condition)

    ``style`` starts from Xavier-normal weights times 0.1 and zero bias: gamma (not 1 + gamma) starts near 0.
    ``noise_scale`` is a scalar, as in the authors' networks; for FSDP put it among its ``ignored_params``.

    Args:
        channels: C of x [N, C, H, W].
        condition_size: E of the condition [N, E].
        device, dtype: of the parameters, as for torch.nn's layers.

    Raises:
        TypeError: sizes that are no integers; in a call, x or a condition that is no floating point tensor.
        ValueError: sizes below 1; in a call, a shape that does not fit.
    """

    def __init__(
        self,
        channels: int,
        condition_size: int,
        *,
        activation: str = "identity",
        negative_slope: float | None = None,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, condition_size=condition_size)
        self.channels, self.condition_size, self.eps = channels, condition_size, eps
        self.noise_scale = nn.Parameter(torch.zeros((), device=device, dtype=dtype))
        self.style = Style(condition_size, 2 * channels, device=device, dtype=dtype)
        self._set_activation(activation, negative_slope)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.noise_scale)
        self.style.reset_parameters()

    def forward(self, x: Tensor, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """x [N, C, H, W]; condition [N, E]; noise [N, 1, H, W], in training drawn where it is None."""
        if isinstance(x, Proxy):
            return recorded_call(self, x, condition, noise)
        for name, value in (("x", x), ("condition", condition)):
            check_dense(name, value, " of a floating point dtype")
            if not value.dtype.is_floating_point:
                raise TypeError(f"{name} must be a Tensor of a floating point dtype, got {value.dtype}")
        if x.dim() != 4 or x.size(1) != self.channels:
            raise ValueError(f"x must be [N, {self.channels}, H, W], got shape {list(x.shape)}")
        if condition.shape != (x.size(0), self.condition_size):
            raise ValueError(
                f"condition must be [N, condition_size] = {[x.size(0), self.condition_size]}, "
                f"got shape {list(condition.shape)}"
            )
        if noise is None and self.training:
            noise = torch.randn((x.size(0), 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        gamma, beta = self.style(condition).chunk(2, dim=1)
        return adain(
            x,
            gamma,
            beta,
            noise,
            None if noise is None else self.noise_scale,
            eps=self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.condition_size}, eps={self.eps}, {super().extra_repr()}"
