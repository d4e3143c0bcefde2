"""Kernels compiled side by side, before they are launched.

Triton compiles a kernel when it is first launched, one at a time, each for a second or more: where hundreds
are to be measured that is most of the time. What another process has compiled it finds in its cache on disk.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from torch import Tensor

from fused_ops.triton_support import ALIGNMENT, Card, Launch, rehearse, settle_key

PATIENCE = 40.0  # seconds; the first kernels also wait for the processes to start
MOST = 12  # processes, each of which holds some hundred megabytes of the card


class Wanted(NamedTuple):
    """What a launch is compiled for, in a form that can go to another process."""

    module: str
    kernel: str
    args: tuple[Any, ...]  # of tensors the dtypes
    constants: tuple[tuple[str, Any], ...]

    @classmethod
    def by(cls, launch: Launch) -> Wanted | None:
        """None for a tensor at an odd address, as which the other process has none."""
        args = []
        for arg in launch.args:
            if isinstance(arg, Tensor):
                if arg.device.type != "meta" and arg.data_ptr() % ALIGNMENT:
                    return None
                arg = arg.dtype
            args.append(arg)
        constants = {**launch.constants, "num_warps": launch.num_warps, "num_stages": launch.num_stages}
        function = launch.kernel.fn
        return cls(function.__module__, function.__name__, tuple(args), tuple(constants.items()))

    def compile(self) -> None:
        """As the launch does; nothing is started."""
        kernel = getattr(importlib.import_module(self.module), self.kernel)
        settle_key(kernel)
        kernel.warmup(*self.args, grid=(1,), **dict(self.constants), enable_fp_fusion=True)


class Compilers:
    """Processes that compile. Nothing depends on them: what they cannot compile fails when it is launched."""

    def __init__(self, card: Card, count: int, prepare: Callable[[], object] | None = None) -> None:
        """``prepare`` is called in each process when it starts."""
        self._card, self._seen = card, set[str]()
        self.compiled, self.missed = 0, 0
        spawn = multiprocessing.get_context("spawn")  # a process that has used the card must not be forked
        self._pool = ProcessPoolExecutor(count, spawn, initializer=prepare) if count > 0 else None

    def compile(self, calls: Iterable[Callable[[], object]], seconds: float) -> None:
        """Compile the kernels that the calls would launch, for so long at most.

        The calls are rehearsed: they compute nothing, and what they raise is of no interest here. How many
        kernels were ``compiled``, and how many ``missed``, late or for an error, is counted. Processes that
        have kept someone waiting for PATIENCE seconds are not waited for again.
        """
        if self._pool is None:
            return
        new: dict[str, Wanted] = {}
        for call in calls:
            with rehearse(self._card) as launches, contextlib.suppress(Exception):
                call()
            for wanted in filter(None, map(Wanted.by, launches)):
                if repr(wanted) not in self._seen:
                    new[repr(wanted)] = wanted
        self._seen.update(new)
        end = time.monotonic() + min(seconds, PATIENCE)
        futures: list[Future[None]] = []
        with contextlib.suppress(BrokenProcessPool):
            futures = [self._pool.submit(wanted.compile) for wanted in new.values()]
            wait(futures, max(0.0, end - time.monotonic()))
        hang = seconds > PATIENCE and not all(future.done() for future in futures)
        done = sum(future.done() and future.exception() is None for future in futures)
        self.compiled, self.missed = self.compiled + done, self.missed + len(new) - done
        if hang:
            self.end()

    def end(self) -> None:
        """Let the processes go, and say what they did."""
        if self._pool is not None:
            running = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in running:  # one that hangs would keep this one from ending
                process.kill()
            self._pool = None
            print(f"compiled side by side: {self.compiled} kernels, {self.missed} missed")


@contextlib.contextmanager
def compilers_for(card: Card, most: int = MOST) -> Iterator[Compilers]:
    """As many processes as there are processors to spare, whatever number of threads torch is told to use."""
    # As fer_mtl/processors.py has it, which is imported before torch and so before this package.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = Compilers(card, min(most, processors - 2))
    try:
        yield found
    finally:
        found.end()
