"""The calls that :mod:`.tune` measures: both op families in FERSNet's shapes, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_ops import backends
from fused_ops.activations import ACTIVATIONS
from fused_ops.tuning.search import Call

BATCH = 64
SHARES = ((64, 48), (128, 24), (256, 12), (512, 6))  # channels, side


class Norm(NamedTuple):
    """A norm to measure: "batch", "instance", "group" (32 groups) or "adain" (with noise)."""

    norm: str
    activation: str
    channels: int
    side: int
    residual: bool = False
    pool: bool = False


NORMS = (
    Norm("batch", "relu", 64, 96),
    Norm("batch", "relu", 128, 48, residual=True),
    Norm("batch", "relu", 128, 48, residual=True, pool=True),
    Norm("instance", "leaky_relu", 64, 48),
    Norm("instance", "leaky_relu", 256, 12),
    Norm("adain", "identity", 256, 12),
    Norm("group", "silu", 256, 24),
)
DTYPES = (torch.bfloat16, torch.float32)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def calls(device: torch.device, batch: int = BATCH, shares: Sequence[tuple[int, int]] = SHARES) -> list[Call]:
    """All calls, with random tensors on this device; those of 16 bits first."""
    found = []
    for dtype in DTYPES:
        generator = torch.Generator(device).manual_seed(20209)

        def random(*shape: int, dtype: torch.dtype = dtype, generator: Any = generator) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        for channels, side in shares:
            found += list(_share(random, batch, channels, side))
        for norm in NORMS:
            for layout in LAYOUTS:
                found += list(_norm(random, norm, batch, layout))
    return found


def _share(random: Any, batch: int, channels: int, side: int) -> Iterator[Call]:
    def features(count: int = channels) -> Tensor:
        return random(batch, count, side, side).contiguous(memory_format=torch.channels_last)

    x, y = features(), features()
    c, both = channels, 2 * channels
    weights = [random(c, inputs, 1, 1) / inputs**0.5 for _ in range(2) for inputs in (both, c, c, both)]
    name = f"selective_share b{batch}-c{channels}-s{side} {str(x.dtype).removeprefix('torch.')}"
    train = Call(f"{name} forward", "selective_share", (x, y, *weights, False, True, True))
    with backends.use("reference"):
        gates = train.run()[2].contiguous(memory_format=torch.channels_last)
    yield train
    grads = features(), features()
    backward = (*grads, None, x, y, gates, *weights, False)
    yield Call(f"{name} backward", "selective_share_backward", backward)
    yield Call(f"{name} inference", "selective_share", (x, y, *weights, False, False, False))


def _norm(random: Any, norm: Norm, batch: int, layout: str) -> Iterator[Call]:
    side, row = norm.side, ACTIVATIONS[norm.activation]

    def features(channels: int = norm.channels, size: int = side) -> Tensor:
        return random(batch, channels, size, size).contiguous(memory_format=LAYOUTS[layout])

    x, residual = features(), features() if norm.residual else None
    styled = norm.norm == "adain"
    gamma, beta = (random(*((batch,) if styled else ()), norm.channels) for _ in range(2))
    noise = (features(1), random(1)) if styled else (None, None)
    groups = {"batch": 0, "instance": norm.channels, "group": 32, "adain": norm.channels}[norm.norm]
    how = (groups, 1e-5, row.index, 0.2)
    name = (
        f"norm_act{'_pool' if norm.pool else ''} {norm.norm} b{batch}-c{norm.channels}-s{side} "
        f"{str(x.dtype).removeprefix('torch.')} {layout}"
    )
    if norm.pool:
        args: tuple[Any, ...] = (x, gamma, beta, residual, None, None, *how, True)
    else:
        args = (x, gamma, beta, residual, *noise, None, None, *how, False)
    forward = Call(f"{name} forward", "norm_act_pool" if norm.pool else "norm_act", args)
    yield forward
    with backends.use("reference"):
        y, mean, var, *winner = forward.run()
    by_output = row.backward_needs == "output"
    if norm.pool:  # the pooling's own part; then follows the backward of the norm alone
        pooled = (features(size=side // 2), y if by_output else None, *winner, side, side, *how[2:])
        yield Call(f"{name} backward", "norm_act_pool_backward", pooled)
        return
    kept = y if norm.residual and by_output else None
    flags = (True, True, norm.residual, False, styled)
    backward = (features(), x, kept, gamma, beta, None, *noise, mean, var, False, *how, False, *flags)
    yield Call(f"{name} backward", "norm_act_backward", backward)
