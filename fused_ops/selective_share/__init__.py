"""Selective feature sharing between two branches (ConvFLU); start with README.md and reference.py."""

from fused_ops.selective_share.functional import (
    ConvFLUGates,
    ConvFLUWeights,
    ShareGates,
    conv_flu,
    selective_share,
)
from fused_ops.selective_share.module import FusedConvFLU, FusedSelectiveShare

__all__ = [
    "ConvFLUGates",
    "ConvFLUWeights",
    "FusedConvFLU",
    "FusedSelectiveShare",
    "ShareGates",
    "conv_flu",
    "selective_share",
]
