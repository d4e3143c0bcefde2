"""The same networks on stock PyTorch layers: what the fused ones are measured against.

Stock means what a user writes without this library: ``nn.BatchNorm2d`` and its kin followed by an activation
(in place where PyTorch can, as is usual), and ConvFLU from plain convolutions under autograd. It is neither
``use("reference")``, which computes again in its backward what it did not keep, nor anything else of
:mod:`fused_ops`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fused_ops import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedConvFLU,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    FusedSelectiveShare,
)
from fused_ops.norm_act.module import WithActivation

_ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "identity": lambda slope: nn.Identity(),
    "relu": lambda slope: nn.ReLU(inplace=True),
    "leaky_relu": lambda slope: nn.LeakyReLU(slope, inplace=True),
    "silu": lambda slope: nn.SiLU(),
    "gelu": lambda slope: nn.GELU(),
    "tanh": lambda slope: nn.Tanh(),
    "sigmoid": lambda slope: nn.Sigmoid(),
    "elu": lambda slope: nn.ELU(inplace=True),
    "hardswish": lambda slope: nn.Hardswish(),
}


def _activation(fused: Any) -> nn.Module:
    slope = 0.01 if fused.negative_slope is None else fused.negative_slope
    return _ACTIVATIONS[fused.activation](slope)


class StockNormAct(nn.Module):
    """norm, then residual, then activation, then pooling: ``maxpool(act(norm(x) + residual))``."""

    def __init__(self, norm: nn.Module, activation: nn.Module, pool: int = 1) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if residual is not None:
            y += residual
        return self.pool(self.activation(y))


class StockAdaIN(nn.Module):
    """Noise, instance norm, scale and shift by a condition; parameters named as in ``FusedAdaIN``."""

    def __init__(self, fused: FusedAdaIN) -> None:
        super().__init__()
        self.eps = fused.eps
        self.noise_scale = fused.noise_scale
        self.style = nn.Linear(fused.condition_size, 2 * fused.channels, device="meta")
        self.style._parameters = fused.style._parameters
        self.activation = _activation(fused)

    def forward(self, x: Tensor, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None and self.training:
            noise = torch.randn((x.size(0), 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if noise is not None:
            x = x + self.noise_scale * noise
        gamma, beta = self.style(condition)[:, :, None, None].chunk(2, dim=1)
        # F.instance_norm refuses the single position that a bottleneck can have; it would give zero.
        x = torch.zeros_like(x) if x[0, 0].numel() == 1 else F.instance_norm(x, eps=self.eps)
        return self.activation(gamma * x + beta)


class StockConvFLU(nn.Module):
    """One ConvFLU unit as its equations stand; parameters named as in ``FusedConvFLU``."""

    def __init__(self, fused: FusedConvFLU) -> None:
        super().__init__()
        self.W_r, self.W, self.U, self.W_z = fused.W_r, fused.W, fused.U, fused.W_z
        self.keep = fused.convention == "keep"

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat([x, y], dim=1)
        r = torch.sigmoid(self.W_r(both))
        h = torch.tanh(self.W(r * y) + self.U(x))
        z = torch.sigmoid(self.W_z(both))
        return z * x + (1 - z) * h if self.keep else (1 - z) * x + z * h


class StockSelectiveShare(nn.Module):
    """Two ConvFLU units reading the same features."""

    def __init__(self, fused: FusedSelectiveShare) -> None:
        super().__init__()
        self.x_from_y = StockConvFLU(fused.x_from_y)
        self.y_from_x = StockConvFLU(fused.y_from_x)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.x_from_y(x, y), self.y_from_x(y, x)


def _batch_norm(fused: FusedBatchNormAct2d) -> nn.Module:
    args = (fused.num_features, fused.eps, fused.momentum, fused.affine, fused.track_running_stats)
    return _adopt(nn.BatchNorm2d(*args), fused)


def _instance_norm(fused: FusedInstanceNormAct2d) -> nn.Module:
    args = (fused.num_features, fused.eps, fused.momentum or 0.0, fused.affine, fused.track_running_stats)
    return _adopt(nn.InstanceNorm2d(*args), fused)


def _group_norm(fused: FusedGroupNormAct) -> nn.Module:
    return _adopt(nn.GroupNorm(fused.num_groups, fused.num_channels, fused.eps, fused.affine), fused)


def _adopt(norm: nn.Module, fused: WithActivation) -> nn.Module:
    """The stock norm with the fused one's own parameters and buffers, and what it adds behind it."""
    norm._parameters = fused._parameters
    norm._buffers = fused._buffers
    return StockNormAct(norm, _activation(fused), fused.pool)


_STOCK: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    FusedAdaIN: StockAdaIN,
    FusedBatchNormAct2d: _batch_norm,
    FusedConvFLU: StockConvFLU,
    FusedGroupNormAct: _group_norm,
    FusedInstanceNormAct2d: _instance_norm,
    FusedSelectiveShare: StockSelectiveShare,
}


def to_stock(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with every fused module replaced by its stock chain, with the same weights.

    Raises:
        ValueError: a fused module has no stock form here.
    """
    return _replace(copy.deepcopy(model))


def _replace(module: nn.Module) -> nn.Module:
    training = module.training
    if type(module) in _STOCK:
        return _STOCK[type(module)](module).train(training)
    if type(module).__module__.partition(".")[0] == "fused_ops":
        raise ValueError(f"model: {type(module).__name__} has no stock form here")
    for name, child in module.named_children():
        setattr(module, name, _replace(child))
    return module
