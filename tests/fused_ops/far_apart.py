"""Small tensors whose parts lie gigabytes apart, so that offsets take more than 31 bits."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

NO_RESERVE = 0x4000  # Linux; Python names it from 3.13 on
FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE


def far_apart(tensors: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """The tensors, alike in shape and dtype, with these strides, one shortly after the other in one memory.

    The system gives memory only to the few pages that are touched.
    """
    shape, count = tensors[0].shape, tensors[0].numel()
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    assert reach > 2**31
    room = mmap.mmap(-1, (reach + len(tensors) * count) * tensors[0].element_size(), flags=FLAGS)
    memory = torch.frombuffer(room, dtype=tensors[0].dtype)
    return [
        memory.as_strided(shape, strides, index * count).copy_(tensor) for index, tensor in enumerate(tensors)
    ]
