"""Fused operations for multi-task networks in PyTorch: gated feature sharing, and norm + activation.

Every op has one plain-PyTorch definition (``fused_ops/<op>/reference.py``) and faster backends: :func:`use`
chooses one, :func:`explain` says which serves a call, ``python -m fused_ops doctor`` what this machine has.
"""

from fused_ops.backends import explain, use
from fused_ops.fuse import fuse
from fused_ops.norm_act import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    adain,
    batch_norm_act,
    group_norm_act,
    instance_norm_act,
)
from fused_ops.registration import decompositions
from fused_ops.selective_share import FusedConvFLU, FusedSelectiveShare, conv_flu, selective_share

__all__ = [
    "FusedAdaIN",
    "FusedBatchNormAct2d",
    "FusedConvFLU",
    "FusedGroupNormAct",
    "FusedInstanceNormAct2d",
    "FusedSelectiveShare",
    "adain",
    "batch_norm_act",
    "conv_flu",
    "decompositions",
    "explain",
    "fuse",
    "group_norm_act",
    "instance_norm_act",
    "selective_share",
    "use",
]
