"""The process's memory allocator, set for training on a CPU."""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_ALL_ONES = -1  # as a size: the largest


def keep_freed_memory() -> bool:
    """Have malloc keep freed memory for the next tensor instead of giving it back; whether that was done.

    By default glibc returns every large block to the system, which hands out zeroed pages again at the next
    step: on two cores that was measured to take half of a training step's time. The price is that the process
    holds on to its peak. For programs (the ``fer-mtl`` command calls it), not for libraries: it holds for the
    whole process. Nothing is done on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _ALL_ONES))
