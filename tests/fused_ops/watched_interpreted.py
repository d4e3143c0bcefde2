"""Right kernels, and ones with each fault; test_watched.py starts these with TRITON_INTERPRET=1."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tests.fused_ops.watched import MemoryFault


@triton.jit
def in_place(at, other):  # as in place activations do
    tile = at + tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(tile, tl.load(tile) + 1)


@triton.jit
def with_a_barrier(at, other):
    tile = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(at + tile, tl.load(other + tile))
    tl.debug_barrier()
    tl.store(other + tile, tl.load(at + (tile ^ 1)))


@triton.jit
def without_a_barrier(at, other):
    tile = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(at + tile, tl.load(other + tile))
    tl.store(other + tile, tl.load(at + (tile ^ 1)))


@triton.jit
def stores_before_all_have_loaded(at, other):
    tile = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(at + tile, tl.load(at + (tile ^ 1)))


@triton.jit
def a_barrier_too_early(at, other):
    tile = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.debug_barrier()
    tl.store(at + (tile ^ 1), tl.load(at + tile))


@triton.jit
def stores_to_one_address(at, other):
    tl.store(at + tl.program_id(0) * 16 + tl.arange(0, 16) // 2, 1.0)


@triton.jit
def programs_store_together(at, other):
    tl.store(at + tl.program_id(0) * 8 + tl.arange(0, 16), 1.0)


@triton.jit
def reads_from_another_program(at, other):
    tl.store(at + tl.program_id(0), tl.load(at))


@triton.jit
def loads_beyond(at, other):
    tl.store(at + tl.program_id(0), tl.sum(tl.load(other + tl.program_id(0) * 56 + tl.arange(0, 16)), axis=0))


@triton.jit
def loads_before(at, other):
    tl.store(at + tl.program_id(0), tl.load(other - 1))


@triton.jit
def stores_beyond(at, other):
    tl.store(at + 64 + tl.program_id(0), 1.0)


@triton.jit
def masked(at, other):
    tile = tl.arange(0, 16)
    tl.store(at + tile, 1.0, mask=tile // 8 == tl.program_id(0))
    tl.load(other + 60 + tile, mask=tile < 4)


@triton.jit
def takes_what_a_mask_leaves_out(at, other):
    tile = tl.arange(0, 16)
    tl.store(at + tile, tl.load(other + tile, mask=tile < 4))


def run(kernel: Any) -> None:
    memory = torch.zeros(3, 128)
    kernel[(2,)](memory[0, 32:96], memory[2, 32:96])


@pytest.mark.parametrize("kernel", [in_place, with_a_barrier, masked], ids=lambda kernel: kernel.fn.__name__)
def test_right_kernels(kernel: Any) -> None:
    run(kernel)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (without_a_barrier, r"program \(0, 0, 0\) accesses an address in two tiles"),
        (stores_before_all_have_loaded, r"program \(0, 0, 0\) accesses an address in two tiles"),
        (a_barrier_too_early, r"program \(0, 0, 0\) accesses an address in two tiles"),
        (stores_to_one_address, r"program \(0, 0, 0\) stores two values to one address"),
        (programs_store_together, r"programs \(0, 0, 0\) and \(1, 0, 0\) access one address"),
        (loads_beyond, r"program \(1, 0, 0\) accesses memory outside of all tensors"),
        (loads_before, r"program \(0, 0, 0\) accesses memory outside of all tensors"),
        (stores_beyond, r"program \(0, 0, 0\) accesses memory outside of all tensors"),
        (reads_from_another_program, r"programs \(0, 0, 0\) and \(1, 0, 0\) access one address"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.fn.__name__,
)
def test_faults_are_found(kernel: Any, message: str) -> None:
    with pytest.raises((MemoryFault, triton.runtime.errors.InterpreterError), match=message) as raised:
        run(kernel)
    assert re.search(kernel.fn.__name__, str(raised.value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32], ids=str)
def test_what_a_mask_leaves_out_is_no_value(dtype: torch.dtype) -> None:
    at, other = torch.zeros(2, 16, dtype=dtype)
    takes_what_a_mask_leaves_out[(1,)](at, other)
    assert not at[:4].any() and (at[4:].isnan() if dtype.is_floating_point else at[4:] == -1).all()
