"""The cost model against Triton's kernels as they run; test_cost_model.py starts this in the interpreter.

The interpreter's loads, stores and products are counted launch by launch: bytes by their addresses, so that
what a launch reads several times counts once, and what the program wrote itself (the L2 cache has it) not at
all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fused_ops
from fused_ops import tuning, use
from fused_ops.norm_act import triton_launch as norm_launch
from fused_ops.norm_act import triton_pool
from fused_ops.selective_share import triton_plan
from fused_ops.triton_support import Card
from fused_ops.tuning import cost_norm, cost_share
from fused_ops.tuning.cost_model import Kernel
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import ShareCall
from tests.fused_ops.selective_share.triton_interpreted import KERNELS, launch_table
from tests.fused_ops.watched import Launch, watched

TINY = Card("tiny", (9, 0), 1, 0)


@dataclass
class Counted:
    """What one launch did."""

    launch: Launch
    flops: int

    @property
    def kernel(self) -> str:
        return self.launch.kernel

    @property
    def bytes(self) -> int:
        read, written, own = [], [], []
        program = None
        for access in self.launch.accesses:
            if access.program != program:
                program, own = access.program, []
            sizes = np.full_like(access.addresses, access.size)
            if access.store:
                own.append(access.addresses)
                written.append(np.stack([access.addresses, sizes], 1))
            else:
                fresh = ~np.isin(access.addresses, np.concatenate(own) if own else ())
                read.append(np.stack([access.addresses, sizes], 1)[fresh])
        parts = [np.unique(np.concatenate(part), axis=0) for part in (read, written) if part]
        return sum(int(part[:, 1].sum()) for part in parts)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Counted]]:
    from triton.runtime.interpreter import InterpreterBuilder

    found: list[Counted] = []
    flops, dot = 0, InterpreterBuilder.create_dot

    def counted_dot(self: Any, a: Any, b: Any, *args: Any) -> Any:
        nonlocal flops
        flops += 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]
        return dot(self, a, b, *args)

    def count(launch: Launch) -> None:
        nonlocal flops
        found.append(Counted(launch, flops))
        flops = 0

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted_dot)
    with watched(count):
        yield found


def assert_as_predicted(found: list[Counted], predicted: list[Kernel], left_out: int = 0) -> None:
    assert len(found) == len(predicted), [launch.kernel for launch in found]
    for ours, theirs in zip(found, predicted, strict=True):
        assert ours.flops == theirs.flops, (ours.kernel, ours.flops, theirs)
        assert abs(ours.bytes - theirs.bytes) <= left_out, (ours.kernel, ours.bytes, theirs)


@pytest.mark.parametrize("channels", [(32, 32), (32, 64)], ids=str)
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("way", KERNELS)
def test_share(
    way: str,
    outside: bool,
    channels: tuple[int, int],
    launches: list[Counted],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = KERNELS[way]
    monkeypatch.setattr(triton_plan, "card_for", lambda tensor: TINY)
    with tuning.table_given("sm_90", launch_table(rows)):
        check_share(rows, ShareCall(*channels, 128, 2, outside=outside), launches)


def check_share(rows: Mapping[str, Mapping[str, Any]], call: ShareCall, launches: list[Counted]) -> None:
    """128 pixels fill all tiles."""
    cx, cy, outside = call.cx, call.cy, call.outside
    shape = (2, 8, 8)

    def features(c: int) -> Tensor:
        x = torch.randn(shape[0], c, *shape[1:], dtype=torch.float16)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    def unit(t: int, s: int) -> list[Tensor]:
        sizes = ((s, t + s), (t, s), (t, t), (t, t + s))
        return [torch.randn(*size, 1, 1, dtype=torch.float16).requires_grad_() for size in sizes]

    x, y, x_weights, y_weights = features(cx), features(cy), unit(cx, cy), unit(cy, cx)
    with use("triton"):
        x_out, y_out, gates = fused_ops.selective_share(x, y, x_weights, y_weights, return_gates=True)
        assert_as_predicted(launches, cost_share.forward(call, rows["forward"]["kernel"]))
        launches.clear()
        loss = x_out.sum() + y_out.sum()
        if outside:
            loss = loss + sum(gate.sum() for one in gates for gate in one)
        loss.backward()
    on_chip = rows["backward"]["kernel"] == "pair"
    chunks = cost_share.chunks(call, rows["backward" if on_chip else "weights"], 1)
    assert_as_predicted(
        launches, cost_share.backward(replace(call, chunks=chunks), rows["backward"]["kernel"])
    )
    launches.clear()
    without = cost_share.forward(ShareCall(cx, cy, 128, 2, gates=False), rows["forward"]["kernel"])
    with use("triton"), torch.no_grad():
        fused_ops.selective_share(x, y, x_weights, y_weights)
    assert_as_predicted(launches, without)
    if on_chip and not outside:
        launches.clear()
        with use("triton"):
            x_out, y_out = fused_ops.selective_share(x, y, x_weights, y_weights, recompute=True)
            (x_out.sum() + y_out.sum()).backward()
        again = cost_share.backward(ShareCall(cx, cy, 128, 2, gates=False, chunks=chunks), "pair")
        assert_as_predicted(launches, [*without, *again])


def goes_up(launched: Counted, tensor: Tensor) -> bool | None:
    """Whether a launch begins with the first pixels of a tensor in channels last; None if it reads none.

    On a card all programs run at once: the first read of each comes before the second of any.
    """
    reads = [access for access in launched.launch.accesses if not access.store]
    programs = 1 + max(access.program[0] for access in reads)
    times, places, turn = [], [], [0] * programs
    for access in reads:
        index = access.program[0]
        inside = access.addresses.astype(np.int64) - tensor.data_ptr()
        inside = inside[(inside >= 0) & (inside < tensor.nbytes)]
        if len(inside):
            times.append(turn[index] * programs + index)
            places.append(inside.mean())
            turn[index] += 1
    return bool(np.corrcoef(times, places)[0, 1] > 0) if times else None


@pytest.mark.parametrize("way", KERNELS)
def test_a_share_turns_back_for_what_the_cache_still_holds(
    way: str, launches: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_plan, "card_for", lambda tensor: TINY)
    x, y = (torch.randn(4, 16, 8, 8, dtype=torch.float16) for _ in range(2))
    x, y = (part.contiguous(memory_format=torch.channels_last).requires_grad_() for part in (x, y))
    weights = [torch.randn(16, size, 1, 1, dtype=torch.float16).requires_grad_() for size in (32, 16, 16, 32)]
    with tuning.table_given("sm_90", launch_table(KERNELS[way])), use("triton"):
        outputs = fused_ops.selective_share(x, y, weights, weights)
        forward = launches.copy()
        launches.clear()
        grads = [out.detach().clone() for out in outputs]
        torch.autograd.backward(outputs, grads)
    *backward, _ = launches  # the last adds up the parts of the weights' gradients

    def ways(launched: list[Counted]) -> list[bool]:
        found = [(goes_up(each, x), goes_up(each, grads[0])) for each in launched]
        return [of_x if of_x is not None else of_grad is True for of_x, of_grad in found]

    assert ways(forward) == [True, False][: len(forward)]
    assert ways(backward) == [False, True] * (len(backward) // 2)


NORMS = {
    "batch": NormCall(2, 16, 64, 4),
    "batch, residual": NormCall(2, 16, 64, 4, residual=True),
    "batch, split": NormCall(4, 8, 1024, 4),
    "running, residual": NormCall(2, 16, 64, 4, given=True, residual=True),
    "instance": NormCall(2, 16, 64, 4, groups=16),
    "group, silu, residual": NormCall(2, 16, 64, 4, groups=4, residual=True, evidence="input"),
    "group, split": NormCall(2, 16, 1024, 4, groups=2, channels_last=False),
    "adain": NormCall(2, 16, 64, 4, groups=16, noise=True, evidence="nothing"),
    "batch, residual, pooled": NormCall(2, 16, 64, 4, residual=True, pooled=True),
    "instance, pooled, nothing of y": NormCall(
        2, 16, 64, 4, groups=16, channels_last=False, evidence="nothing", pooled=True
    ),
}
LIMITS = {
    "row": 4096, "row_last": 4096, "wanted": 256, "row_per_thread": 4,
    "tile": 512, "per_thread": 4, "per_processor": 4, "stages": 1,
}  # fmt: skip


def test_a_norm_turns_back_for_what_the_cache_still_holds(
    launches: list[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norm_launch, "card_for", lambda tensor: TINY)
    x = torch.randn(4, 8, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    table = {f"norm_act.{way}": [{"when": {}, "launch": LIMITS}] for way in ("forward", "backward")}
    with tuning.table_given("sm_90", table), use("triton"):
        fused_ops.batch_norm_act(x, None, None, training=True, activation="relu").sum().backward()
    # statistics, their merging, the result; sums, their merging, the gradient
    assert [goes_up(each, x) for each in launches] == [True, None, False, True, None, False]


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, launches: list[Counted], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (norm_launch, triton_pool):
        monkeypatch.setattr(module, "card_for", lambda tensor: TINY)
    table = {f"norm_act.{way}": [{"when": {}, "launch": LIMITS}] for way in ("forward", "backward")}
    with tuning.table_given("sm_90", table):
        check_norm(NORMS[name], launches)


def check_norm(call: NormCall, launches: list[Counted]) -> None:
    side = int(call.plane**0.5)
    layout = torch.channels_last if call.channels_last else torch.contiguous_format

    def large() -> Tensor:
        x = torch.randn(call.samples, call.channels, side, side)
        return x.contiguous(memory_format=layout).requires_grad_()

    x, residual = large(), large() if call.residual else None
    gamma, beta = (torch.randn(call.channels).requires_grad_() for _ in range(2))
    how: dict[str, Any] = {
        "activation": {"output": "relu", "input": "silu", "nothing": "identity"}[call.evidence],
        **({"pool": 2} if call.pooled else {}),
    }
    with use("triton"):
        if call.noise:
            gamma, beta = (torch.randn(call.samples, call.channels).requires_grad_() for _ in range(2))
            noise, scale = torch.randn(call.samples, 1, side, side), torch.tensor(0.5, requires_grad=True)
            y = fused_ops.adain(x, gamma, beta, noise, scale, **how)
        elif call.given:
            mean, var = torch.randn(call.channels), torch.rand(call.channels)
            y = fused_ops.batch_norm_act(x, mean, var, gamma, beta, training=False, residual=residual, **how)
        elif call.groups == call.channels:
            y = fused_ops.instance_norm_act(x, None, None, gamma, beta, residual=residual, **how)
        elif call.groups:
            y = fused_ops.group_norm_act(x, call.groups, gamma, beta, residual=residual, **how)
        else:
            mean, var = torch.randn(call.channels), torch.rand(call.channels)
            y = fused_ops.batch_norm_act(x, mean, var, gamma, beta, training=True, residual=residual, **how)
        # parameters and their gradients (of each sample, if adain's), left out of the model
        small = 4 * (4 * call.channels * (call.samples if call.noise else 1) + 8)
        assert_as_predicted(launches, cost_norm.forward(call, "triton", TINY, LIMITS), small)
        launches.clear()
        y.sum().backward()
    predicted = cost_norm.backward(call, "triton", TINY, LIMITS)
    own = [kernel for kernel in predicted if not kernel.name.startswith("sum of")]
    assert_as_predicted(launches, own, small)
    if call.pooled:
        assert launches[0].kernel == "unpool_kernel" and launches[0].bytes == cost_norm.unpool(call).bytes
