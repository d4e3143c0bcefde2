"""What a card would not forgive a Triton kernel, and the interpreter does not see.

Accesses outside of the tensors that it was given; what a load's mask leaves out and no ``other`` stands for,
which is NaN here instead of the interpreter's 0; and programs, or threads of a program, that get in each
other's way. The interpreter runs programs one after the other, each statement for a whole tile. On a card
programs run at once, and between barriers each of a program's threads goes on as it can: what one has stored
the others find in memory after ``tl.debug_barrier``, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import triton.runtime.interpreter as interpreter
from torch import Tensor


class MemoryFault(AssertionError):
    """What a kernel computes hangs on what it should not see, or on who comes first."""


class Access(NamedTuple):
    """One load or store of a program's tile."""

    program: tuple[int, int, int]
    barriers: int  # of the program until then
    store: bool
    addresses: np.ndarray  # of what the mask leaves
    size: int  # bytes of an element


class Launch:
    """All accesses of a launch, in the interpreter's order."""

    def __init__(self, kernel: str, tensors: Iterable[Tensor]) -> None:
        self.kernel = kernel
        self.accesses: list[Access] = []
        ranges = sorted((tensor.data_ptr(), tensor.data_ptr() + _extent(tensor)) for tensor in tensors)
        self._begins, self._ends = np.array(ranges, dtype=np.uint64).reshape(-1, 2).T
        self._ends = np.maximum.accumulate(self._ends)  # of tensors that share memory

    def note(self, access: Access) -> None:
        at, where = access.addresses, f"{self.kernel}: program {access.program}"
        place = np.searchsorted(self._begins, at, side="right")
        if (place == 0).any() or (at + np.uint64(access.size) > self._ends[place - 1]).any():
            raise MemoryFault(f"{where} accesses memory outside of all tensors")
        if access.store and len(np.unique(at)) < len(at):
            raise MemoryFault(f"{where} stores two values to one address")
        self.accesses.append(access)

    def check_order(self) -> None:
        numbers: dict[Any, int] = {}  # of programs and of tiles

        def number(key: Any) -> int:
            return numbers.setdefault(key, len(numbers))

        facts = [
            (number(a.program), a.barriers, a.store, number(a.addresses.tobytes())) for a in self.accesses
        ]
        lengths = [len(a.addresses) for a in self.accesses]
        of_each = np.repeat(np.array(facts, dtype=int).reshape(-1, 4), lengths, axis=0)
        addresses = np.concatenate([np.empty(0, np.uint64), *(a.addresses for a in self.accesses)])
        stored_to = np.isin(addresses, addresses[of_each[:, 2] == 1])
        addresses, of_each = addresses[stored_to], of_each[stored_to]
        order = np.lexsort((of_each[:, 1], addresses))
        addresses, (program, barriers, store, tile) = addresses[order], of_each[order].T
        names = list(numbers)
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


def _undefined(pointers: Any) -> interpreter.TensorHandle:
    """For each of the pointers what no program should take for a value: NaN, or -1."""
    kind = pointers.get_element_ty()
    dtype = np.dtype(interpreter._get_np_dtype(kind))
    bits = np.full((*pointers.data.shape, dtype.itemsize), 255, np.uint8)
    return interpreter.TensorHandle(bits.view(dtype)[..., 0], kind)


@contextmanager
def watched(tell: Callable[[Launch], None] = lambda launch: None) -> Iterator[None]:
    """Within the context what kernels do is watched, a MemoryFault raised, and each right launch told."""
    builder, run = interpreter.interpreter_builder, interpreter.GridExecutor.__call__
    load, store, barrier = builder.create_masked_load, builder.create_masked_store, builder.create_barrier
    launch, program, barriers = Launch("", ()), None, 0

    def watched_run(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal launch, program
        given = (*args, *kwargs.values())
        launch = Launch(self.fn.__name__, [value for value in given if isinstance(value, Tensor)])
        program = None
        run(self, *args, **kwargs)
        launch.check_order()
        tell(launch)

    def note(pointers: Any, mask: Any, store: bool) -> None:
        nonlocal program, barriers
        if builder.grid_idx != program:
            program, barriers = builder.grid_idx, 0
        inside = np.broadcast_to(mask.data, pointers.data.shape)
        size = pointers.get_element_ty().primitive_bitwidth // 8
        launch.note(Access(program, barriers, store, pointers.data[inside], size))

    def watched_load(pointers: Any, mask: Any, other: Any, *how: Any) -> Any:
        note(pointers, mask, False)
        return load(pointers, mask, _undefined(pointers) if other is None else other, *how)

    def watched_store(pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        note(pointers, mask, True)
        return store(pointers, value, mask, *others)

    def watched_barrier() -> Any:
        nonlocal barriers
        barriers += 1
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
