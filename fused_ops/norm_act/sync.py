"""Batch norm + activation with statistics over all processes of a distributed run."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from fused_ops.leaf import recorded_call
from fused_ops.norm_act.module import FusedBatchNormAct2d, WithActivation


class SyncBatchNormAct(WithActivation, nn.SyncBatchNorm):
    """``activation(SyncBatchNorm(x) + residual)``, pooled as ours, in torch's own ops."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if isinstance(x, Proxy):
            return recorded_call(self, x, residual)
        return self._in_steps(super().forward(x), residual)


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """As ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, but the activations of fused modules stay.

    torch's own conversion turns a :class:`FusedBatchNormAct2d` into a plain ``SyncBatchNorm``: it knows
    nothing of an activation. Use this one for models with fused modules.

    Args:
        module: the model; its batch norms are replaced, their parameters and buffers kept.
        process_group: over which to synchronize; all processes by default.

    Returns:
        The model, or what replaces it if it is itself a batch norm.
    """
    if isinstance(module, SyncBatchNormAct):
        return module
    if isinstance(module, FusedBatchNormAct2d):
        converted = SyncBatchNormAct(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
            process_group,
        )
        converted._set_activation(module.activation, module.negative_slope, pool=module.pool)
        converted._parameters, converted._buffers = module._parameters, module._buffers
        return converted.train(module.training)
    if isinstance(module, _BatchNorm):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module, process_group)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batchnorm(child, process_group))
    return module
