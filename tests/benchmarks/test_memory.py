from __future__ import annotations

import weakref

import pytest
import torch

from benchmarks.memory import peak_bytes, saved_bytes

KILO = 1024 * 4  # bytes of 1024 floats


def test_saved_bytes_counts_each_storage_once() -> None:
    x = torch.randn(1024, requires_grad=True)
    assert saved_bytes(lambda: x * x) == KILO  # x twice
    assert saved_bytes(lambda: x.exp() * x) == 2 * KILO  # the exponential, twice, and x


def test_saved_bytes_leaves_nothing_behind() -> None:
    """A graph that stays holds on to its leaves' streams, and no CUDA graph can be captured any more."""
    made = []

    def call() -> torch.Tensor:
        made.append(weakref.ref(output := x.exp()))  # whose backward keeps it
        return output

    x = torch.randn(KILO // 4, requires_grad=True)
    saved_bytes(call)
    assert made[0]() is None


def test_saved_bytes_leaves_parameters_out() -> None:
    x, weight = torch.randn(1024, requires_grad=True), torch.randn(1024, requires_grad=True)
    assert saved_bytes(lambda: x * weight, ignore=(weight,)) == KILO


def test_nothing_is_saved_without_gradients() -> None:
    x = torch.randn(1024, requires_grad=True)
    with torch.no_grad():
        assert saved_bytes(lambda: x * x) == 0


def test_peak_counts_what_is_alive_together() -> None:
    def two_at_a_time() -> None:
        a = torch.ones(1024)
        del a
        b = torch.ones(1024)
        c = torch.ones(1024)
        del b, c

    assert peak_bytes(two_at_a_time) == pytest.approx(2 * KILO, abs=64)


def test_peak_is_beyond_what_was_there() -> None:
    there = torch.ones(1 << 20)
    assert peak_bytes(lambda: there.sum()) <= 64
    assert peak_bytes(lambda: there[:1024].clone()) == pytest.approx(KILO, abs=64)


def test_peak_knows_what_a_call_frees_of_the_one_before() -> None:
    held = [torch.ones(1024)]

    def step() -> None:
        held.clear()
        held.append(torch.ones(1024))

    assert peak_bytes(step) <= 64
