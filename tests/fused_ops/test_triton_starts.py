"""Launches that are remembered start what Triton itself would: seen by a driver that stands for a card's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.stand_in import Driver, driven_by
from fused_ops import triton_support
from fused_ops.triton_support import CARDS, host_call
from fused_ops.tuning import aot
from fused_ops.tuning.cases import CASES
from tests.fused_ops.interpreter import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter's kernels are not compiled"
    ),
]
LAST = torch.channels_last


class Seen(NamedTuple):
    """What reached the driver: a kernel, what it was compiled for, and what it was given."""

    signature: str
    grid: tuple[int, ...]
    args: tuple[Any, ...]


class Noting(Driver):
    """A driver that notes what it would have started."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.hooks: tuple[Any, ...] = ()  # what the last launch was given for them, and they themselves

    def launcher_cls(self, source: Any, _metadata: Any) -> Callable[..., None]:
        signature = f"{source.fn.__name__}: {source.signature}, {source.constants}, {source.attrs}"

        def launch(x: int, y: int, z: int, _stream: int, _function: Any, *rest: Any) -> None:
            self.hooks, args = rest[1:4], rest[4:]
            self.seen.append(Seen(signature, (x, y, z), tuple(map(described, args))))

        return launch


def described(arg: Any) -> Any:
    """Of a tensor its place in memory, where the caller knows it: outputs lie somewhere else every time."""
    return (PLACES.get(arg.data_ptr(), "new"), arg.dtype) if isinstance(arg, Tensor) else arg


PLACES: dict[int, str] = {}


@pytest.fixture
def driver() -> Iterator[Noting]:
    PLACES.clear()
    noting = Noting()
    with driven_by(noting):
        yield noting


def placed(name: str, tensor: Tensor) -> Tensor:
    PLACES[tensor.data_ptr()] = name
    return tensor


def norms() -> Iterator[Callable[[], None]]:
    """Calls of one shape; Triton compiles its kernel anew for most of them."""

    def call(
        name: str, x: Tensor, gamma: Tensor | None, eps: float = 1e-5, beta: Tensor | None = None
    ) -> Callable[[], None]:
        placed(name, x)
        return lambda: host_call(
            "norm_act.triton_launch", "forward", x, gamma, beta, None, None, None, None, None, 16, eps, 1, 0.0
        )

    shape = (2, 16, 4, 4)
    for dtype in (torch.bfloat16, torch.float16):
        for other in range(2):
            x = torch.randn(shape).to(dtype)
            yield call(f"{dtype} {other}", x, placed("gamma", torch.ones(16)))
        yield call(f"{dtype} without gamma", x.clone(), None)
        yield call(f"{dtype} with beta alone", x.clone(), None, beta=placed("beta", torch.ones(16)))
        yield call(f"{dtype} and gamma alike", x.clone(), torch.ones(16, dtype=dtype))
    odd = torch.randn(1 + x.numel()).to(dtype)[1:].view(shape)
    yield call("at an odd address", odd, torch.ones(16))
    yield call("gamma at an odd address", x.clone(), torch.ones(17)[1:])
    for extra in (1, 16):  # images lie an odd number of elements apart, then a multiple of 16
        room = torch.randn(2, 16 * 16 + extra).to(dtype)
        yield call(f"{extra} apart", room[:, : 16 * 16].unflatten(1, (16, 4, 4)), torch.ones(16))
    yield call("another eps", x.clone(), torch.ones(16), 1e-3)


def shares() -> Iterator[Callable[[], None]]:
    """Forward and backward of pairs that differ in their tensors."""
    module = "selective_share.triton_launch"
    sizes = [(16, 32), (16, 16), (16, 16), (16, 32)] * 2

    def features(name: str, channels: int = 16) -> Tensor:
        return placed(name, torch.randn(2, channels, 4, 4).to(torch.bfloat16).to(memory_format=LAST))

    for index in range(2):
        x, y, x_out, y_out = (features(f"{name} {index}") for name in ("x", "y", "x'", "y'"))
        weights = [torch.randn(*size, 1, 1).to(torch.bfloat16) for size in sizes]
        weights = [placed(f"weight {index} {number}", weight) for number, weight in enumerate(weights)]
        gates = features(f"gates {index}", 96)
        grads = [torch.empty_like(tensor) for tensor in (x, y, *weights)]
        grads = [placed(f"gradient {index} {number}", grad) for number, grad in enumerate(grads)]

        def forward(x: Any = x, y: Any = y, weights: Any = weights, out: Any = (x_out, y_out)) -> None:
            host_call(module, "forward", x, y, weights, False, None, out, LAST)

        def backward(
            x: Any = x, y: Any = y, gates: Any = gates, weights: Any = weights, grads: Any = grads
        ) -> None:
            host_call(module, "backward", y, x, None, x, y, gates, weights, False, grads, LAST)

        yield forward
        yield backward


@pytest.mark.parametrize("make", [norms, shares])
def test_what_is_remembered_is_what_triton_finds(
    make: Callable[[], Iterator[Callable[[], None]]], driver: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list(make())

    def seen(call: Callable[[], None]) -> list[Seen]:
        driver.seen.clear()
        call()
        return list(driver.seen)

    with monkeypatch.context() as patch:
        patch.setattr(triton_support, "_what_is_compiled_for", lambda *_: None)
        expected = [seen(call) for call in calls]
    assert all(expected)
    for _ in range(2):
        assert [seen(call) for call in calls] == expected


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The launches that are left to Triton."""
    found, launch = [], triton_support.launch

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(args)
        return launch(*args, **kwargs)

    monkeypatch.setattr(triton_support, "launch", counted)
    return found


def test_a_launch_is_left_to_triton_but_once(driver: Noting, left: list[Any]) -> None:
    one, other = list(norms())[:2]
    for call in (one, other, one):
        call()
    assert len(left) == 1 and len(driver.seen) == 3


def test_hooks_that_come_later_are_told_of_remembered_launches(driver: Noting) -> None:
    from triton import knobs

    def hook(metadata: Any) -> None: ...

    call = next(iter(norms()))
    call()
    call()
    assert driver.hooks == (None, None, None)  # nothing is made for them
    for chain in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
        chain.add(hook)
        try:
            call()
        finally:
            chain.remove(hook)
        assert chain in driver.hooks
    metadata, entering, _ = driver.hooks
    assert metadata is not None and entering is not None


def test_of_a_plan_the_newest_few_are_remembered(
    driver: Noting, left: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "MOST_STARTS", 2)
    first, _, *_, last = list(norms())
    for call in norms():
        call()
    left.clear()
    last()
    assert not left
    first()
    assert left


def test_plans_name_every_compile_time_argument() -> None:
    for _, launch in aot.rehearsals(CASES.items(), CARDS["sm_90"]):
        wanted = launch.kernel.arg_names[len(launch.args) :]
        assert set(wanted) <= set(launch.constants), launch.kernel.__name__
