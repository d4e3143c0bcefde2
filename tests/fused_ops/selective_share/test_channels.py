"""Channels in whole lines, or nearly so, which the CPU's kernels compute in ways of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import fused_ops
from fused_ops import native, use
from tests.fused_ops.selective_share.test_op import (
    FORMATS,
    WHOLE_LINES,
    detached,
    eager_everything,
    everything,
    pair,
)
from tests.numerics import assert_as_accurate_as_eager


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("convention", ["accept", "keep"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", WHOLE_LINES, ids=str)
def test_whole_lines_of_channels(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: str, convention: str, recompute: bool
) -> None:
    """Pairs and single units: multiples of 32 in bfloat16 are multiplied as such where the processor can,
    of 16 in float32 are computed in place where they lie side by side (of many pixels also without gates)."""
    tensors = [tensor.to(dtype) for tensor in pair(*shape)]
    tensors[:2] = [tensor.contiguous(memory_format=FORMATS[memory_format]) for tensor in tensors[:2]]
    exact = everything([tensor.double() for tensor in tensors], "reference", convention, recompute)
    ours = everything(tensors, "cpu", convention, recompute)
    assert_as_accurate_as_eager(ours, eager_everything(tensors, convention), exact)

    def one_unit(tensors: Sequence[Tensor], backend: str) -> list[Tensor]:
        x, y, *weights = [tensor.detach().requires_grad_() for tensor in tensors[:6]]
        with use(backend):
            out = fused_ops.conv_flu(x, y, weights, convention=convention, recompute=recompute)
            return detached([out, *torch.autograd.grad(out, [x, y, *weights], torch.ones_like(out))])

    eager = one_unit(tensors, "reference")
    exact = one_unit([tensor.double() for tensor in tensors], "reference")
    assert_as_accurate_as_eager(one_unit(tensors, "cpu"), eager, exact)


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "")
@pytest.mark.parametrize("memory_format", FORMATS)
def test_an_infinite_value_meets_no_channel_that_bfloat16_fills_up(memory_format: str) -> None:
    """It saturates gates; times a weight of zero it would be NaN, in every channel of the pixel."""
    tensors = [tensor.bfloat16() for tensor in pair(90, 61, 2, 5, 7)]
    tensors[:2] = [tensor.contiguous(memory_format=FORMATS[memory_format]) for tensor in tensors[:2]]
    tensors[0][1, 0, 2, 3] = float("inf")
    ours = everything(tensors, "cpu", "accept", False)[0]
    expected = everything([tensor.double() for tensor in tensors], "reference", "accept", False)[0]
    assert expected[:, 1:].isfinite().all()
    torch.testing.assert_close(ours[:, 1:].double(), expected[:, 1:], rtol=0.02, atol=0.02)
