"""The processors that there are to share out, and how their threads wait for each other."""

from __future__ import annotations

import os


def available_processors() -> int:
    """The processors this process may use, on any system."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Turns of libgomp's waiting loop. By itself it makes 300,000, some milliseconds; what is waited for within a
# step is mostly there after some tenths of one.
SPIN = 10_000


def wait_briefly() -> None:
    """Have OpenMP's threads sleep soon when they wait for each other. To be called before torch is imported.

    A thread that spins while it waits holds a processor, and as soon as another program wants one too, it may
    be the one that the awaited thread needs. Beside two busy programs on two processors, all of the same low
    priority, a step of a small network was measured to take 423 ms by default and 72 so, of ordinary priority
    as long either way; alone nothing is lost. For programs (the ``fer-mtl`` command calls it), not for
    libraries. Whoever sets ``OMP_WAIT_POLICY`` or ``GOMP_SPINCOUNT`` is obeyed; only GNU's OpenMP, which
    torch's own packages for Linux bring along, knows the latter.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN))
