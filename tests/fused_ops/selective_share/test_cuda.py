"""selective_share's CUDA kernels on an emulated device; whom the backend refuses.

The matrix products are torch's own, on the CPU here.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import fused_ops
from fused_ops import explain, use
from tests.fused_ops import emulated
from tests.fused_ops.selective_share.test_op import (
    FORMATS,
    check_operands_are_checked,
    eager_everything,
    everything,
    pair,
)
from tests.numerics import assert_as_accurate_as_eager

# x channels, y channels, images, height, width: with and without whole vectors, single pixels.
SHAPES = [
    (16, 16, 2, 9, 7),
    (1, 1, 1, 1, 1),
    (3, 2, 3, 1, 1),
    (7, 31, 2, 5, 3),
    (32, 24, 2, 8, 5),
    (64, 32, 2, 8, 5),
]


@pytest.mark.parametrize("reversed_order", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(
    shape: tuple[int, ...], memory_format: str, dtype: torch.dtype, reversed_order: bool
) -> None:
    convention, recompute = ("keep", True) if shape[0] % 2 else ("accept", False)
    tensors = [tensor.to(dtype) for tensor in pair(*shape)]
    tensors[:2] = [tensor.contiguous(memory_format=FORMATS[memory_format]) for tensor in tensors[:2]]
    exact = everything([tensor.double() for tensor in tensors], "reference", convention, recompute)
    # Without oneDNN, whose bfloat16 products read beyond strided operands: there lies NaN.
    one_dnn = torch.backends.mkldnn.flags(enabled=False) if dtype == torch.bfloat16 else nullcontext()
    with one_dnn, emulated.device(reversed_order=reversed_order):
        ours = everything(tensors, "cuda", convention, recompute)
        eager = eager_everything(tensors, convention)
    assert_as_accurate_as_eager(ours, eager, exact)
    for result in (*ours[:2], *ours[8:10]):
        assert result.is_contiguous(memory_format=FORMATS[memory_format])


def test_without_gates() -> None:
    """They are neither returned nor kept, and no gradient comes through them."""
    tensors = [tensor.requires_grad_() for tensor in pair(8, 12, 2, 5, 3)]
    for recompute in (False, True):
        results = []
        for backend in ("cuda", "reference"):
            with emulated.device(), use(backend):
                outs = fused_ops.selective_share(*tensors[:2], tensors[2:6], tensors[6:], recompute=recompute)
                loss = torch.stack([out.square().sum() for out in outs]).sum()
                results.append([*outs, *torch.autograd.grad(loss, tensors)])
        for our, their in zip(*results, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_a_single_unit() -> None:
    x, y, *weights = pair(8, 5, 2, 4, 4)
    leaves = [tensor.requires_grad_() for tensor in (x, y, *weights[:4])]
    results = []
    for backend in ("cuda", "reference"):
        with emulated.device(), use(backend):
            out, gates = fused_ops.conv_flu(x, y, weights[:4], return_gates=True)
            loss = out.square().sum() + sum(gate.square().sum() for gate in gates)
            results.append([out, *gates, *torch.autograd.grad(loss, leaves)])
    for our, their in zip(*results, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_any_strides() -> None:
    tensors = pair(6, 5, 2, 4, 3)
    expected = everything(tensors, "reference", "accept", False)
    variant = [tensor.permute(1, 3, 2, 0).contiguous().permute(3, 0, 2, 1) for tensor in tensors]
    shifted = torch.randn(3, *tensors[0].shape[1:])  # a slice that begins off a 16-byte boundary
    shifted[1:] = tensors[0]
    for changed in (variant, [shifted[1:], *tensors[1:]]):
        with emulated.device():
            ours = everything(changed, "cuda", "accept", False)
        for our, their in zip(ours, expected, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_the_number_of_launches() -> None:
    """Of our own kernels: three forward, four backward, for both directions."""
    tensors = [tensor.requires_grad_() for tensor in pair(8, 8, 1, 3, 3)]
    with emulated.device():
        outs = fused_ops.selective_share(*tensors[:2], tensors[2:6], tensors[6:])
        assert emulated.launches() == 3
        torch.autograd.grad(outs, tensors, [torch.ones_like(out) for out in outs])
        assert emulated.launches() == 3 + 4


def test_whom_it_refuses() -> None:
    x, y, *weights = pair(4, 4, 1, 3, 3)
    reasons = explain(fused_ops.selective_share, x, y, weights[:4], weights[4:])[0].reasons
    assert reasons["cuda"] == "the tensors are on cpu"
    with use("cuda"), pytest.raises(RuntimeError, match="cannot serve this call: the tensors are on cpu"):
        fused_ops.selective_share(x, y, weights[:4], weights[4:])


def test_the_library_checks_its_operands() -> None:
    with emulated.device():
        check_operands_are_checked(torch.ops.fused_ops_cuda)
