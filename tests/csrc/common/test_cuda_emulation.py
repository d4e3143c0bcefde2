"""The emulated device computes what a card would, and finds the mistakes it is there to find."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.fused_ops.emulated import compile_emulated


@pytest.fixture(scope="module")
def toys() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compile_emulated([Path(__file__).with_name("toy_kernels.cpp")], "toy_kernels")))
    library.run_toy.restype = ctypes.c_char_p
    return library


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def run(
    toys: ctypes.CDLL,
    name: str,
    source: Tensor,
    target: Tensor,
    threads: int = 64,
    reversed_order: bool = False,
) -> str:
    sizes = (source.numel(), target.numel(), threads, int(reversed_order))
    return toys.run_toy(name.encode(), pointer(source), pointer(target), *sizes).decode()


@pytest.mark.parametrize("reversed_order", [False, True])
def test_a_right_kernel(toys: ctypes.CDLL, reversed_order: bool) -> None:
    source, target = torch.randn(1000), torch.empty(8)
    assert run(toys, "add_up", source, target, 128, reversed_order) == ""
    expected = torch.nn.functional.pad(source, (0, 24)).view(8, 128).sum(1)
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize("reversed_order", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "reads_too_early", "writes_too_early", "shuffles_for_a_barrier", "writes_together",
        "reads_of_another_block",
    ],
)  # fmt: skip
def test_races_are_found_whoever_comes_first(toys: ctypes.CDLL, name: str, reversed_order: bool) -> None:
    said = run(toys, name, torch.randn(128), torch.empty(64), reversed_order=reversed_order)
    thread = "block [01], thread [0-9]+: a (read|write) that races with thread [0-9]+ of block 0"
    assert re.fullmatch(thread, said)


@pytest.mark.parametrize("reversed_order", [False, True])
def test_what_barriers_order_is_no_race(toys: ctypes.CDLL, reversed_order: bool) -> None:
    source, target = torch.randn(64), torch.empty(1)
    assert run(toys, "in_turns", source, target, reversed_order=reversed_order) == ""
    assert target == source[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reads_beyond", "block 0, thread 63: a read of 4 bytes outside of all tensors"),
        ("writes_beyond", "block 0, thread 63: a write of 4 bytes outside of all tensors"),
        ("writes_its_input", "a write of 4 bytes outside of all tensors"),
        ("misaligned", "16 bytes are accessed at an address that is not aligned to them"),
        ("some_wait", "threads wait at a barrier that others never reach"),
        ("beyond_shared", "block 0, thread 0: a write outside of shared memory"),
        ("before_shared", "block 0, thread 0: a read outside of shared memory"),
    ],
)
def test_mistakes_are_found(toys: ctypes.CDLL, name: str, message: str) -> None:
    source, target = torch.randn(64), torch.full((64,), 3.0)
    assert message in run(toys, name, source, target)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_block", "a grid has 0 blocks"),
        ("many_blocks", "a grid has 2147483648 blocks"),
        ("uneven_block", "a block has 48 threads"),
        ("large_block", "a block has 2048 threads"),
        ("much_shared", "a block has 49156 bytes of shared memory"),
    ],
)
def test_launches_that_no_card_makes_are_found(toys: ctypes.CDLL, name: str, message: str) -> None:
    assert run(toys, name, torch.randn(64), torch.empty(64)).endswith(message)


def test_threads_at_different_barriers_are_found(toys: ctypes.CDLL) -> None:
    said = run(toys, "wait_apart", torch.randn(64), torch.empty(64))
    assert "block 0, thread 32: waits at line" in said


def test_float16_and_bfloat16_are_torchs(toys: ctypes.CDLL) -> None:
    values = torch.cat(
        [
            torch.randn(2000) * torch.logspace(-12, 6, 2000),
            torch.arange(0, 2**16).to(torch.int16).view(torch.float16).float(),
            torch.tensor([0.0, -0.0, 65504, 65519, 65520, 1e9, float("inf"), float("-inf"), 2**-14, 2**-25]),
            torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 2**-24 * 1.5, 3.4e38]),
        ]
    )
    values = values[~values.isnan()]
    for name, dtype in (("round_half", torch.float16), ("round_bfloat16", torch.bfloat16)):
        bits, back = torch.empty(len(values), dtype=torch.int16), torch.empty(len(values))
        getattr(toys, name)(pointer(values), pointer(bits), pointer(back), len(values))
        assert torch.equal(bits.view(dtype), values.to(dtype))
        assert torch.equal(back, values.to(dtype).float())
        nan = torch.tensor([float("nan")])
        getattr(toys, name)(pointer(nan), pointer(bits), pointer(back), 1)
        assert back[0].isnan()


@pytest.mark.parametrize("by", [1, 2, 3, 5, 7, 36, 641, 2**16, 2**16 + 1, 2**30, 2**31 - 1])
def test_division_by_a_constant(toys: ctypes.CDLL, by: int) -> None:
    near = torch.arange(0, 2**31 // by, max(1, 2**31 // by // 500)) * by
    numbers = torch.cat([near, near - 1, near + 1, torch.randint(0, 2**31 - 1, (1000,))])
    numbers = numbers.clamp(0, 2**31 - 1).int()
    assert toys.divides(pointer(numbers), len(numbers), by) == 1
