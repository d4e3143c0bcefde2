"""What is kept of a decision by the facts of a call holds for every call that has them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fused_ops import backends, native, triton_support
from fused_ops.activations import ACTIVATIONS
from fused_ops.tuning.facts import facts_of

SHAPES = ((2, 8, 6, 6), (2, 4096, 2, 2), (2**20, 8, 2, 2**10), (0, 8, 6, 6))
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
KINDS = tuple(ACTIVATIONS[name].index for name in ("identity", "relu", "silu"))


class Calls:
    """Calls of every op, drawn; what is no fact is drawn as well."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def maybe(self, make: Callable[[], Any]) -> Any:
        return make() if self.draw.random() < 0.5 else None

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.draw.choice((torch.float32, torch.bfloat16))
        return torch.empty(2 * shape[0], *shape[1:], dtype=dtype, device="meta")[:: self.draw.choice((1, 2))][
            : shape[0]
        ]

    def large(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.draw.random() < 0.3:  # a slice of channels
            n, c, *rest = shape
            return torch.empty((n, 2 * c, *rest), dtype=dtype, device="meta")[:, :c]
        layout = self.draw.choice((torch.contiguous_format, torch.channels_last))
        return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)

    def norm(self) -> dict[str, tuple[Any, ...]]:
        shape, dtype = self.draw.choice(SHAPES), self.draw.choice(DTYPES)
        n, c, h, w = shape

        def like() -> Tensor:
            return self.large(shape, dtype)

        def small() -> Tensor:
            return self.tensor(*self.draw.choice(((c,), (max(n, 1), c))))

        groups, activation = self.draw.choice((0, 1, c)), self.draw.choice(KINDS)
        eps, slope, flag = self.draw.choice((1e-5, 1e-3)), self.draw.random(), self.draw.random() < 0.5
        gamma, beta, mean = self.maybe(small), self.maybe(small), self.maybe(lambda: self.tensor(c))
        residual, noise = self.maybe(like), self.maybe(lambda: self.tensor(max(n, 1), 1, h, w))
        x, scale, how = like(), self.tensor(1), (groups, eps, activation, slope)
        half = self.large((n, c, h // 2, w // 2), dtype)
        return {
            "norm_act": (x, gamma, beta, residual, noise, scale, mean, mean, *how, flag),
            "norm_act_backward": (
                like(), x, self.maybe(like), gamma, beta, residual, noise, scale, self.tensor(c),
                self.tensor(c), flag, *how, False, *(self.draw.random() < 0.5 for _ in range(5)),
            ),
            "norm_act_pool": (x, gamma, beta, residual, mean, mean, *how, flag),
            "norm_act_pool_backward": (
                half, self.maybe(lambda: half), self.large(tuple(half.shape), torch.uint8), h, w,
                activation, slope,
            ),
        }  # fmt: skip

    def share(self) -> dict[str, tuple[Any, ...]]:
        shape, dtype = self.draw.choice(SHAPES), self.draw.choice(DTYPES)
        n, cx, h, w = shape
        cy = self.draw.choice((cx, 2 * cx))
        x, y = self.large(shape, dtype), self.large((n, cy, h, w), self.draw.choice((dtype, *DTYPES)))
        kernel, pair = self.draw.choice((1, 3)), self.draw.random() < 0.5

        def unit(target: int, source: int) -> list[Tensor]:
            both = target + source
            sizes = ((source, both), (target, source), (target, target), (target, both))
            return [self.tensor(*size, kernel, kernel) for size in sizes]

        weights = [*unit(cx, cy), *(unit(cy, cx) if pair else [None] * 4)]
        keep, gates = self.draw.random() < 0.5, self.large((n, 3 * (cx + cy), h, w), dtype)
        want = self.draw.random() < 0.5
        return {
            "selective_share": (x, y, *weights, keep, want, want),
            "selective_share_backward": (
                x, self.maybe(lambda: y), self.maybe(lambda: gates), x, y, self.maybe(lambda: gates),
                *weights, keep,
            ),
        }  # fmt: skip


def on_any_device(*tensors: Tensor | None) -> str | None:
    """Stands for the refusals that ask for the device."""
    known = [tensor for tensor in tensors if tensor is not None]
    if known[0].dtype not in native.CUDA_DTYPES:
        return f"no kernel for {known[0].dtype}"
    return "empty" if any(tensor.numel() == 0 for tensor in known) else None


def test_refusals_follow_from_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As choices do, which are made of nothing else."""
    monkeypatch.setattr(native, "why_not_cuda", on_any_device)
    monkeypatch.setattr(triton_support, "why_not", on_any_device)
    calls, seen, again = Calls(20209), {}, dict.fromkeys(backends.ops("cuda"), 0)
    for _ in range(1500):
        for op, args in (calls.norm() | calls.share()).items():
            known = backends._implementations[op]
            refusals = {name: known[name].refuses(*args) for name in ("triton", "cuda")}
            key = op, facts_of(op, args)
            again[op] += key in seen
            assert seen.setdefault(key, refusals) == refusals, key
    assert min(again.values()) > 20
