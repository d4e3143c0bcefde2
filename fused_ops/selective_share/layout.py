"""The memory formats that a call of ``selective_share`` works in."""

from __future__ import annotations

import torch
from torch import Tensor

from fused_ops.registration import is_wrapped


def working_format(x: Tensor) -> torch.memory_format:
    """The memory format a call works in: that of x, or of what x is a slice of, so that no copy is made."""
    if x.stride(1) == 1 < x.shape[1] and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def gates_format(x: Tensor, y: Tensor) -> torch.memory_format:
    """The memory format of the gates: that of x, except on the CPU.

    There kernels go along pixels, thus planes, but along channels in bfloat16 and where features in
    channels_last are whole cache lines of few channels (``in_place`` of csrc/selective_share/cpu_call.h).
    Tensors that vmap has wrapped cannot be laid out otherwise than in planes.
    """
    if x.device.type != "cpu":
        return working_format(x)
    if x.dtype == torch.bfloat16 and not is_wrapped():
        return torch.channels_last
    in_place = all(features.shape[1] % 16 == 0 and features.shape[1] <= 256 for features in (x, y))
    return working_format(x) if in_place else torch.contiguous_format
