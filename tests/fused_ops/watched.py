"""What a card would not forgive a Triton kernel, and the interpreter does not see.

Accesses outside of the tensors that it was given; and programs, or threads of a program, that get in each
other's way. The interpreter runs programs one after the other, each statement for a whole tile. On a card
programs run at once, and between barriers each of a program's threads goes on as it can: what one has stored
the others find in memory after ``tl.debug_barrier``, and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter
from torch import Tensor


class MemoryFault(AssertionError):
    """What a kernel computes hangs on what it should not see, or on who comes first."""


class _Launch:
    """The addresses that each load and store of a launch is of."""

    def __init__(self, kernel: str, tensors: Iterable[Tensor]) -> None:
        self.kernel = kernel
        self.barriers = 0
        self.tiles: list[np.ndarray] = []
        self.facts: list[tuple[int, int, int, int]] = []  # program, barriers, whether to store, tile
        self.programs: dict[Any, int] = {}
        self.known_tiles: dict[bytes, int] = {}
        ranges = sorted((tensor.data_ptr(), tensor.data_ptr() + _extent(tensor)) for tensor in tensors)
        self.begins, self.ends = np.array(ranges, dtype=np.uint64).reshape(-1, 2).T
        self.ends = np.maximum.accumulate(self.ends)  # of tensors that share memory

    def note(self, program: Any, addresses: np.ndarray, size: int, store: bool) -> None:
        place = np.searchsorted(self.begins, addresses, side="right")
        if (place == 0).any() or (addresses + np.uint64(size) > self.ends[place - 1]).any():
            raise MemoryFault(f"{self.kernel}: program {program} accesses memory outside of all tensors")
        if store and len(np.unique(addresses)) < len(addresses):
            raise MemoryFault(f"{self.kernel}: program {program} stores two values to one address")
        tile = self.known_tiles.setdefault(addresses.tobytes(), len(self.known_tiles))
        number = self.programs.setdefault(program, len(self.programs))
        self.tiles.append(addresses)
        self.facts.append((number, self.barriers, int(store), tile))

    def check_order(self) -> None:
        facts = np.repeat(np.array(self.facts).reshape(-1, 4), [len(tile) for tile in self.tiles], axis=0)
        addresses = np.concatenate([*self.tiles, np.empty(0, np.uint64)])
        written = np.isin(addresses, addresses[facts[:, 2] == 1])
        addresses, facts = addresses[written], facts[written]
        order = np.lexsort((facts[:, 1], addresses))
        addresses, (program, barriers, store, tile) = addresses[order], facts[order].T
        names = list(self.programs)
        same = addresses[1:] == addresses[:-1]
        for at in np.flatnonzero(same & (program[1:] != program[:-1]))[:1]:
            raise MemoryFault(
                f"{self.kernel}: programs {names[program[at]]} and {names[program[at + 1]]} access one "
                "address, one of them to store"
            )
        # One and the same tile is always shared out among the threads in the same way.
        together = same & (barriers[1:] == barriers[:-1])
        group = np.concatenate([np.zeros(min(1, len(store)), int), np.cumsum(~together)])
        stores = np.bincount(group, store)[group] > 0
        for at in np.flatnonzero(together & stores[1:] & (tile[1:] != tile[:-1]))[:1]:
            raise MemoryFault(
                f"{self.kernel}: program {names[program[at]]} accesses an address in two tiles, once to "
                "store, with no barrier in between"
            )


def _extent(tensor: Tensor) -> int:
    """Bytes from its first element to the end of its last."""
    steps = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size() if tensor.numel() else 0


@contextmanager
def watched() -> Iterator[None]:
    """Within the context what kernels do is watched, and a MemoryFault raised."""
    builder, run = interpreter.interpreter_builder, interpreter.GridExecutor.__call__
    load, store, barrier = builder.create_masked_load, builder.create_masked_store, builder.create_barrier
    launch = _Launch("", ())

    def watched_run(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal launch
        given = (*args, *kwargs.values())
        launch = _Launch(self.fn.__name__, [value for value in given if isinstance(value, Tensor)])
        run(self, *args, **kwargs)
        launch.check_order()

    def note(pointers: Any, mask: Any, store: bool) -> None:
        inside = np.broadcast_to(mask.data, pointers.data.shape)
        size = pointers.get_element_ty().primitive_bitwidth // 8
        launch.note(builder.grid_idx, pointers.data[inside], size, store)

    def watched_load(pointers: Any, mask: Any, *others: Any) -> Any:
        note(pointers, mask, False)
        return load(pointers, mask, *others)

    def watched_store(pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        note(pointers, mask, True)
        return store(pointers, value, mask, *others)

    def watched_barrier() -> Any:
        launch.barriers += 1
        return barrier()

    interpreter.GridExecutor.__call__ = watched_run
    builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
    builder.create_barrier = watched_barrier
    try:
        yield
    finally:
        interpreter.GridExecutor.__call__ = run
        builder.create_masked_load, builder.create_masked_store = load, store
        builder.create_barrier = barrier
