"""Casts: whether autocast makes them, and of several tensors at once, as on a GPU launches take longest."""

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
    cast = list(tensors)
    launches: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for index, (tensor, dtype) in enumerate(zip(tensors, dtypes, strict=True)):
        if tensor is not None and dtype is not None and tensor.dtype is not dtype:
            made = torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
            # One for each dtype: of several some versions of torch take all for the first.
            into, given = launches.setdefault(dtype, ([], []))
            into.append(made)
            given.append(tensor)
            cast[index] = made
    for into, given in launches.values():
        torch._foreach_copy_(into, given)
    return cast


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where x lies. About some places, such as "meta", torch refuses the question."""
    place = x.device.type
    return _knows_autocast(place) and torch.is_autocast_enabled(place)


def _knows_autocast(place: str) -> bool:
    return torch.amp.is_autocast_available(place)


# Dynamo of torch 2.10 and 2.11 cannot trace it: as torch.compiler.assume_constant_result.
_knows_autocast._dynamo_marked_constant = True  # type: ignore[attr-defined]
