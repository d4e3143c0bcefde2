"""The same network in stock PyTorch modules: what the fused one is timed against.

`use("reference")` would not do: the reference of an op recomputes in its backward what it does not keep, as
the fused one does, and is slower than what people write by hand.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_ops import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedConvFLU,
    FusedInstanceNormAct2d,
    FusedSelectiveShare,
)


class StockNorm(nn.Module):
    """activation(norm(x) + residual) as three modules; ``norm`` is a torch.nn one."""

    def __init__(self, norm: nn.Module, activation: str, negative_slope: float | None) -> None:
        super().__init__()
        self.norm, self.activation, self.negative_slope = norm, activation, negative_slope

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        return activate(x if residual is None else x + residual, self.activation, self.negative_slope)


class StockAdaIN(nn.Module):
    """Noise, instance norm, scale and shift, one after the other."""

    def __init__(self, fused: FusedAdaIN) -> None:
        super().__init__()
        self.noise_scale, self.style, self.eps = fused.noise_scale, fused.style, fused.eps
        self.activation, self.negative_slope = fused.activation, fused.negative_slope

    def forward(self, x: Tensor, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None and self.training:
            noise = torch.randn((x.size(0), 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if noise is not None:
            x = x + self.noise_scale * noise
        gamma, beta = self.style(condition)[:, :, None, None].chunk(2, dim=1)
        # F.instance_norm refuses the single position that a bottleneck can have; it would give zero.
        x = torch.zeros_like(x) if x[0, 0].numel() == 1 else F.instance_norm(x, eps=self.eps)
        return activate(x * gamma + beta, self.activation, self.negative_slope)


class StockShare(nn.Module):
    """Two ConvFLU units as their formulas read."""

    def __init__(self, fused: FusedSelectiveShare) -> None:
        super().__init__()
        self.x_from_y, self.y_from_x, self.convention = fused.x_from_y, fused.y_from_x, fused.convention

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Any:
        if return_gates:
            raise ValueError("return_gates must be False: the stock twin is for timing")
        return conv_flu(self.x_from_y, x, y, self.convention), conv_flu(self.y_from_x, y, x, self.convention)


def conv_flu(unit: FusedConvFLU, x: Tensor, y: Tensor, convention: str) -> Tensor:
    """x' of the target x that receives from y (shared formulas of the paper and of its public code)."""
    both = torch.cat([x, y], dim=1)
    r = torch.sigmoid(unit.W_r(both))
    h = torch.tanh(unit.W(r * y) + unit.U(x))
    z = torch.sigmoid(unit.W_z(both))
    return (1 - z) * x + z * h if convention == "accept" else z * x + (1 - z) * h


def activate(x: Tensor, name: str, negative_slope: float | None) -> Tensor:
    """The activation ``name`` by torch.nn.functional."""
    if name == "identity":
        return x
    if name == "leaky_relu":
        return F.leaky_relu(x, 0.01 if negative_slope is None else negative_slope)
    function: Any = getattr(F, name)
    result: Tensor = function(x)
    return result


def stock_twin(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which every fused module is replaced by stock ones with the same numbers."""
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if (stock := _stock(child)) is not None:
                setattr(parent, name, stock.train(child.training))
    return twin


def _stock(module: nn.Module) -> nn.Module | None:
    if isinstance(module, FusedAdaIN):
        return StockAdaIN(module)
    if isinstance(module, FusedSelectiveShare):
        return StockShare(module)
    if isinstance(module, FusedBatchNormAct2d):
        norm: nn.Module = nn.BatchNorm2d(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
    elif isinstance(module, FusedInstanceNormAct2d):
        norm = nn.InstanceNorm2d(
            module.num_features, module.eps, module.momentum or 0.0, module.affine, module.track_running_stats
        )
    else:
        return None
    state = module.state_dict()
    for value in state.values():
        if value.is_floating_point():
            norm.to(value)  # first, so that loading rounds nothing
    norm.load_state_dict(state)
    return StockNorm(norm, module.activation, module.negative_slope)
