"""Spread independent work of small tensors or pictures over threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], on as many threads as torch uses; the first error is raised.

    Each thread runs its tensor operations alone: many small operations shared between all threads would
    mostly wait for each other, the more so on a busy machine.
    """
    workers = torch.get_num_threads()
    items = list(items)
    if workers == 1 or len(items) < 2:
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(workers)  # threads started later take the last value that was set anywhere
