"""How many processors there are to share out."""

from __future__ import annotations

import os


def available_processors() -> int:
    """The processors this process may use, on any system."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
