"""Fused operations for multi-task networks in PyTorch: gated feature sharing, and norm + activation.

Every op has one plain-PyTorch definition (``fused_ops/<op>/reference.py``) and faster backends; :func:`use` chooses
one, :func:`explain` says which serves a call, ``python -m fused_ops doctor`` says what this machine has.
"""

from fused_ops.backends import explain, use
from fused_ops.selective_share import FusedConvFLU, FusedSelectiveShare, conv_flu, selective_share

__all__ = ["FusedConvFLU", "FusedSelectiveShare", "conv_flu", "explain", "selective_share", "use"]
