"""Whether programs of a Triton kernel, or threads of a program, get in each other's way.

In the interpreter programs run one after the other, each statement for a whole tile. On a card programs run
at once, and between barriers each of a program's threads goes on as it can: what one has stored the others
find in memory after ``tl.debug_barrier``, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter


class Disorder(AssertionError):
    """What a kernel computes hangs on which of its programs or threads is first."""


@dataclass
class _Launch:
    """The addresses that each load and store of a launch is of."""

    kernel: str
    barriers: int = 0
    tiles: list[np.ndarray] = field(default_factory=list)
    facts: list[tuple[int, int, int, int]] = field(default_factory=list)  # program, barriers, store?, tile
    programs: dict[Any, int] = field(default_factory=dict)
    known_tiles: dict[bytes, int] = field(default_factory=dict)

    def note(self, program: Any, addresses: np.ndarray, store: bool) -> None:
        if store and len(np.unique(addresses)) < len(addresses):
            raise Disorder(f"{self.kernel}: program {program} stores two values to one address")
        tile = self.known_tiles.setdefault(addresses.tobytes(), len(self.known_tiles))
        number = self.programs.setdefault(program, len(self.programs))
        self.tiles.append(addresses)
        self.facts.append((number, self.barriers, int(store), tile))

    def check(self) -> None:
        facts = np.repeat(np.array(self.facts).reshape(-1, 4), [len(tile) for tile in self.tiles], axis=0)
        addresses = np.concatenate([*self.tiles, np.empty(0, np.uint64)])
        written = np.isin(addresses, addresses[facts[:, 2] == 1])
        addresses, facts = addresses[written], facts[written]
        order = np.lexsort((facts[:, 1], addresses))
        addresses, (program, barriers, store, tile) = addresses[order], facts[order].T
        names = list(self.programs)
        same = addresses[1:] == addresses[:-1]
        for at in np.flatnonzero(same & (program[1:] != program[:-1]))[:1]:
            raise Disorder(
                f"{self.kernel}: programs {names[program[at]]} and {names[program[at + 1]]} access one "
                "address, one of them to store"
            )
        # One and the same tile is always shared out among the threads in the same way.
        together = same & (barriers[1:] == barriers[:-1])
        group = np.concatenate([np.zeros(min(1, len(store)), int), np.cumsum(~together)])
        stores = np.bincount(group, store)[group] > 0
        for at in np.flatnonzero(together & stores[1:] & (tile[1:] != tile[:-1]))[:1]:
            raise Disorder(
                f"{self.kernel}: program {names[program[at]]} accesses an address in two tiles, once to "
                "store, with no barrier in between"
            )


@contextmanager
def in_order() -> Iterator[None]:
    """Within the context kernels raise Disorder where their programs or threads are in no order."""
    builder, run = interpreter.interpreter_builder, interpreter.GridExecutor.__call__
    load, store, barrier = builder.create_masked_load, builder.create_masked_store, builder.create_barrier
    launch = _Launch("")

    def watched_run(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal launch
        launch = _Launch(self.fn.__name__)
        run(self, *args, **kwargs)
        launch.check()

    def note(pointers: Any, mask: Any, store: bool) -> None:
        inside = np.broadcast_to(mask.data, pointers.data.shape)
        launch.note(builder.grid_idx, pointers.data[inside], store)

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
