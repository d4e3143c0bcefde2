"""The calls that :mod:`.tune` measures: both op families in FERSNet's shapes, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_ops import backends
from fused_ops.activations import ACTIVATIONS
from fused_ops.tuning.tune import Call

BATCH = 64
SHARES = ((64, 48), (128, 24), (256, 12), (512, 6))  # channels, side
NORMS = (  # norm, activation, channels, side, residual
    ("batch", "relu", 64, 96, False),
    ("batch", "relu", 128, 48, True),
    ("instance", "leaky_relu", 64, 48, False),
    ("instance", "leaky_relu", 256, 12, False),
    ("group", "silu", 256, 24, False),
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
        for norm, activation, channels, side, residual in NORMS:
            for layout in LAYOUTS:
                found += list(_norm(random, norm, activation, batch, channels, side, residual, layout))
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


def _norm(
    random: Any, norm: str, activation: str, batch: int, channels: int, side: int, residual: bool, layout: str
) -> Iterator[Call]:
    def features() -> Tensor:
        return random(batch, channels, side, side).contiguous(memory_format=LAYOUTS[layout])

    x, other = features(), features() if residual else None
    gamma, beta = random(channels), random(channels)
    row = ACTIVATIONS[activation]
    groups = {"batch": 0, "instance": channels, "group": 32}[norm]
    how = (groups, 1e-5, row.index, 0.2)
    name = f"norm_act {norm} b{batch}-c{channels}-s{side} {str(x.dtype).removeprefix('torch.')} {layout}"
    forward = Call(
        f"{name} forward", "norm_act", (x, gamma, beta, other, None, None, None, None, *how, False)
    )
    yield forward
    with backends.use("reference"):
        y, mean, var = forward.run()
    kept = y if residual and row.backward_needs == "output" else None
    flags = (True, True, residual, False, False)
    backward = (features(), x, kept, gamma, beta, None, None, None, mean, var, False, *how, False, *flags)
    yield Call(f"{name} backward", "norm_act_backward", backward)
