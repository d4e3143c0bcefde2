"""Kernels that are in order, and kernels that are not; test_order.py starts these with TRITON_INTERPRET=1."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tests.fused_ops.order import Disorder


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
def masked(at, other):
    tile = tl.arange(0, 16)
    tl.store(at + tile, 1.0, mask=tile // 8 == tl.program_id(0))


def run(kernel: Any) -> None:
    kernel[(2,)](torch.zeros(64), torch.zeros(64))


@pytest.mark.parametrize("kernel", [in_place, with_a_barrier, masked], ids=lambda kernel: kernel.fn.__name__)
def test_kernels_in_order(kernel: Any) -> None:
    run(kernel)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (without_a_barrier, r"program \(0, 0, 0\) accesses an address in two tiles"),
        (stores_before_all_have_loaded, r"program \(0, 0, 0\) accesses an address in two tiles"),
        (a_barrier_too_early, r"program \(0, 0, 0\) accesses an address in two tiles"),
        (stores_to_one_address, r"program \(0, 0, 0\) stores two values to one address"),
        (programs_store_together, r"programs \(0, 0, 0\) and \(1, 0, 0\) access one address"),
        (reads_from_another_program, r"programs \(0, 0, 0\) and \(1, 0, 0\) access one address"),
    ],
    ids=lambda value: None if isinstance(value, str) else value.fn.__name__,
)
def test_kernels_without_order(kernel: Any, message: str) -> None:
    with pytest.raises((Disorder, triton.runtime.errors.InterpreterError), match=message) as raised:
        run(kernel)
    assert re.search(kernel.fn.__name__, str(raised.value))
