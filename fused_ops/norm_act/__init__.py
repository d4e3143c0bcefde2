"""Norm + residual + activation in one pass: batch, instance, group and adaptive instance norm."""

from fused_ops.norm_act.functional import adain, batch_norm_act, group_norm_act, instance_norm_act
from fused_ops.norm_act.module import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
)
from fused_ops.norm_act.sync import convert_sync_batchnorm

__all__ = [
    "FusedAdaIN",
    "FusedBatchNormAct2d",
    "FusedGroupNormAct",
    "FusedInstanceNormAct2d",
    "adain",
    "batch_norm_act",
    "convert_sync_batchnorm",
    "group_norm_act",
    "instance_norm_act",
]
