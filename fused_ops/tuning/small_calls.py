"""Which norms on the CPU are left to torch's own kernels: mostly those that fit in a core's own cache.

One fused op costs more to call than torch's kernels do, some 30 microseconds, and its kernels gain only on
tensors that are worth it. A call that no native kernel would serve is left to torch's, too: the reference is
there to be read, not to be fast.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from fused_ops import native

Kind = Literal["batch", "running", "instance", "group"]  # of statistics; running: those of before
# Elements up to which a call is small, for planes and for channels_last (16-bit planes apart). Measured
# forward and full on two threads of an AVX-512 processor, with an activation that torch does in place.
SMALL = {
    ("batch", False): 1 << 17, ("batch", True): 1 << 17,
    ("running", False): 1 << 17, ("running", True): 1 << 17,
    ("instance", False): 1 << 15, ("instance", True): 1 << 12,
    ("group", False): 7 << 15, ("group", True): 1 << 15,
}  # fmt: skip
SMALL_16_BIT_PLANES = {"batch": 1 << 19, "group": 1 << 20}
# Groups of many channels in channels_last, by whether elements have 16 bits: alike on three processors.
MANY_CHANNELS, SMALL_MANY = 256, {False: 1 << 16, True: 1 << 19}
# Where more follows than an activation, where torch's steps would keep what the caller wants to save, and for
# few channels in channels_last, along which torch's kernels go.
SMALL_AT_BEST, FEW_CHANNELS = 1 << 15, 16
# Planes of few elements: torch's kernels are quick with contiguous ones, and in channels_last up to so many
# elements in all.
SHORT = 64
SMALL_SHORT = {"batch": 1 << 18, "running": 1 << 16, "instance": 0, "group": 1 << 62}


def quicker_in_steps(x: Tensor, kind: Kind, alone: bool) -> str | None:
    """Why torch's own kernels are quicker for a norm of x on the CPU, or None. ``alone``: with nothing but an
    activation."""
    library = native.cpu_library()
    if not library.loaded or x.dtype not in native.CPU_DTYPES:
        return (library.reason or f"it has no kernel for {x.dtype}") if x.numel() else None
    return _why_quicker(x.shape, not x.is_contiguous(), x.element_size() == 2, kind, alone)


# A network calls with the same few shapes, and a small call feels every microsecond.
@functools.lru_cache(1024)
def _why_quicker(shape: torch.Size, last: bool, is_16_bit: bool, kind: Kind, alone: bool) -> str | None:
    samples, channels, *spatial = shape
    plane = math.prod(spatial)
    size = samples * channels * plane
    if not size:
        return None
    small = SMALL[kind, last]
    if not last and is_16_bit and kind in SMALL_16_BIT_PLANES:
        small = SMALL_16_BIT_PLANES[kind]
    if kind == "group" and last and channels >= MANY_CHANNELS:
        small = SMALL_MANY[is_16_bit]
    if not alone or (last and channels < FEW_CHANNELS):
        small = min(small, SMALL_AT_BEST)
    if size <= small:
        return f"torch's own kernels are quicker for {size} elements"
    if plane < SHORT and (not last or size <= SMALL_SHORT[kind]):
        return f"torch's own kernels are quicker for planes of {plane} elements"
    return None
