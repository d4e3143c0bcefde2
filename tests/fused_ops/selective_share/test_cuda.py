"""selective_share's CUDA kernels on an emulated device; whom the backend refuses.

The matrix products are torch's own, on the CPU here.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

import fused_ops
from fused_ops import explain, use
from fused_ops.tuning import cost_share
from fused_ops.tuning.cost_model import Kernel
from fused_ops.tuning.cost_share import ShareCall
from tests.fused_ops import emulated
from tests.fused_ops.selective_share.test_autocast import check_parameters_in_float32
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


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("channels", [(8, 5), (8, 12)], ids=str)
def test_a_single_unit(channels: tuple[int, int], recompute: bool) -> None:
    x, y, *weights = pair(*channels, 2, 4, 4)
    leaves = [tensor.requires_grad_() for tensor in (x, y, *weights[:4])]
    results = []
    for backend in ("cuda", "reference"):
        with emulated.device(), use(backend):
            out, gates = fused_ops.conv_flu(x, y, weights[:4], return_gates=True, recompute=recompute)
            loss = out.square().sum() + sum(gate.square().sum() for gate in gates)
            results.append([out, *gates, *torch.autograd.grad(loss, leaves)])
    for our, their in zip(*results, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_parameters_in_float32() -> None:
    with emulated.device():
        check_parameters_in_float32("cuda", torch.float16)


def test_any_strides() -> None:
    check_strides(pair(6, 5, 2, 4, 3))


def test_any_strides_of_whole_vectors() -> None:
    tensors = pair(8, 12, 2, 4, 3)
    check_strides(tensors)
    # As an optimizer lays out parameters in one flat tensor, here off 16-byte boundaries.
    flat = torch.cat([torch.zeros(1), *(weight.flatten() for weight in tensors[2:])])
    parts = flat[1:].split([weight.numel() for weight in tensors[2:]])
    weights = [part.view_as(weight) for part, weight in zip(parts, tensors[2:], strict=True)]
    check_as_reference([*tensors[:2], *weights], everything(tensors, "reference", "accept", False))


def check_strides(tensors: list[torch.Tensor]) -> None:
    """Of all tensors in an odd order, of features that begin off a boundary, and of a slice."""
    expected = everything(tensors, "reference", "accept", False)
    variant = [tensor.permute(1, 3, 2, 0).contiguous().permute(3, 0, 2, 1) for tensor in tensors]
    shifted = torch.randn(3, *tensors[0].shape[1:])  # a slice that begins off a 16-byte boundary
    shifted[1:] = tensors[0]
    joined = torch.cat(tensors[:2], dim=1).contiguous(memory_format=torch.channels_last)
    slices = joined.split([tensor.shape[1] for tensor in tensors[:2]], dim=1)
    for changed in (variant, [shifted[1:], *tensors[1:]], [*slices, *tensors[2:]]):
        check_as_reference(changed, expected)


def check_as_reference(tensors: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    with emulated.device():
        ours = everything(tensors, "cuda", "accept", False)
    for our, their in zip(ours, expected, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_the_number_of_launches() -> None:
    """Of our own kernels: three forward, four backward, for both directions; one more makes gates again."""
    tensors = [tensor.requires_grad_() for tensor in pair(8, 8, 1, 3, 3)]
    for recompute, backward in ((False, 4), (True, 5)):
        with emulated.device():
            outs = fused_ops.selective_share(*tensors[:2], tensors[2:6], tensors[6:], recompute=recompute)
            assert emulated.launches() == 3
            torch.autograd.grad(outs, tensors, [torch.ones_like(out) for out in outs])
            assert emulated.launches() == 3 + backward


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("channels", "dtype"), [((16, 16), torch.float16), ((7, 12), torch.float32)])
def test_own_kernels_move_what_the_cost_model_says(
    channels: tuple[int, int], dtype: torch.dtype, memory_format: str, recompute: bool
) -> None:
    tensors = [tensor.to(dtype) for tensor in pair(*channels, 2, 5, 3)]
    tensors[:2] = [tensor.contiguous(memory_format=FORMATS[memory_format]) for tensor in tensors[:2]]
    last = memory_format == "channels_last"
    call = ShareCall(*channels, 2 * 5 * 3, dtype.itemsize, channels_last=last, gates=not recompute)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    with emulated.device():
        outs = fused_ops.selective_share(*leaves[:2], leaves[2:6], leaves[6:], recompute=recompute)
        check_own_kernels(cost_share.forward(call, "cuda"))
    with emulated.device():
        torch.autograd.grad(outs, leaves, [torch.ones_like(out) for out in outs])
        check_own_kernels(cost_share.backward(call, "cuda"))


def check_own_kernels(predicted: list[Kernel]) -> None:
    own = [kernel for kernel in predicted if not kernel.library and kernel.name != "copy"]
    assert emulated.launches() == len(own)
    assert emulated.moved() == sum(kernel.bytes for kernel in own)


def test_whom_it_refuses() -> None:
    x, y, *weights = pair(4, 4, 1, 3, 3)
    reasons = explain(fused_ops.selective_share, x, y, weights[:4], weights[4:])[0].reasons
    assert reasons["cuda"] == "the tensors are on cpu"
    with use("cuda"), pytest.raises(RuntimeError, match="cannot serve this call: the tensors are on cpu"):
        fused_ops.selective_share(x, y, weights[:4], weights[4:])


def test_the_library_checks_its_operands() -> None:
    with emulated.device():
        check_operands_are_checked(torch.ops.fused_ops_emulated)
