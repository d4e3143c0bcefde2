"""Several tensors to other dtypes at once: on a GPU a launch for each would take longer than the work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cast_together(
    tensors: Sequence[Tensor | None], dtypes: Sequence[torch.dtype | None]
) -> Sequence[Tensor | None]:
    """The tensors, each in the dtype in its place and contiguous where that is another one; no graph is kept.

    None stays None, and a tensor beside None as it is.
    """
    odd = [
        (index, tensor, dtype)
        for index, (tensor, dtype) in enumerate(zip(tensors, dtypes, strict=True))
        if tensor is not None and dtype is not None and tensor.dtype is not dtype
    ]
    if not odd:
        return tensors
    plain = torch.contiguous_format
    made = [torch.empty_like(tensor, dtype=dtype, memory_format=plain) for _, tensor, dtype in odd]
    for wanted in {dtype for _, _, dtype in odd}:  # of several some torch takes all for the first
        here = [index for index, (_, _, dtype) in enumerate(odd) if dtype is wanted]
        torch._foreach_copy_([made[index] for index in here], [odd[index][1] for index in here])
    cast = list(tensors)
    for (index, _, _), tensor in zip(odd, made, strict=True):
        cast[index] = tensor
    return cast
