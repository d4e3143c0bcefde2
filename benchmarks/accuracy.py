"""How wrong a result is: in roundings of its dtype, so that precisions can be compared."""

from __future__ import annotations

import torch
from torch import Tensor


def error_in_roundings(value: Tensor, exact: Tensor) -> float:
    """The largest error, in units of the dtype's rounding of the largest exact value."""
    rounding = torch.finfo(value.dtype).eps * exact.abs().max().item()
    return (value.double() - exact).abs().max().item() / max(rounding, torch.finfo(value.dtype).tiny)
