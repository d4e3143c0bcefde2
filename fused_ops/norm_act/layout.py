"""Sizes and memory formats that the reference, the fake and the kernels of ``norm_act`` agree on."""

from __future__ import annotations

import torch
from torch import Tensor

PLAIN = (Tensor, torch.nn.Parameter)  # no subclass that may see to its own calls
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def memory_format(x: Tensor) -> torch.memory_format:
    """The format of the output for the input x: its own where x is dense, else what its strides suggest."""
    if x.dim() in _CHANNELS_LAST and x.stride(1) == 1 < x.size(1) and not x.is_contiguous():
        return _CHANNELS_LAST[x.dim()]
    return torch.contiguous_format


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of mean and variance, and of the arithmetic: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def statistics_size(x: Tensor, groups: int) -> int:
    """How many statistics there are: one per channel (groups = 0) or one per sample and group."""
    return x.size(0) * groups if groups else x.size(1)
