"""What the kernels for GPUs, Triton's and CUDA's, must compute; each runs where there is no card.

The functions use whichever backend is asked for at the time.
"""

from __future__ import annotations

import contextlib
from unittest import mock

import torch
from torch import Tensor

import fused_ops
from fused_ops import use
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act import reference
from tests.fused_ops.norm_act.cases import Case, results
from tests.fused_ops.norm_act.restored import check_restored
from tests.numerics import FEW, assert_as_accurate_as_eager, error_in_roundings

# Channels that fill no tile, planes of no even size and of one pixel, one sample, other ranks.
SHAPES = [(3, 6, 9, 7), (2, 5, 1, 3), (5, 7, 1, 1), (4, 6, 13), (2, 4, 3, 2, 5), (1, 34, 4, 4)]


def cast(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Low precision for x and what is like it, single for the small ones."""
    return [tensors[0].to(dtype), *(t.to(dtype if t.dim() > 2 else torch.float32) for t in tensors[1:])]


def assert_accurate(ours: list[Tensor], eager: list[Tensor], exact: list[Tensor]) -> None:
    """The common rule for many elements; the few of a tiny tensor may be off by some roundings."""
    trios = list(zip(ours, eager, exact, strict=True))
    for our, their, true in (trio for trio in trios if trio[0].numel() < FEW):
        assert our.shape == true.shape
        # In low precision the gradient of y is rounded, as it is not for the exact result.
        rounding = torch.finfo(ours[0].dtype).eps / torch.finfo(our.dtype).eps
        allowed = max(8, rounding / 2, 2 * error_in_roundings(their, true) + 1)
        assert error_in_roundings(our, true) <= allowed
    many = [trio for trio in trios if trio[0].numel() >= FEW]
    assert_as_accurate_as_eager(*([trio[index] for trio in many] for index in range(3)))


def check(case: Case, shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype) -> None:
    """Output and all gradients against float64, and the memory format of the large ones."""
    tensors = cast(case.tensors(shape, channels_last), dtype)
    exact = results(case.eager, [tensor.double() for tensor in tensors])
    eager = results(case.eager, tensors)
    ours = results(case.fused, tensors)
    if case.noise:  # the gradient of noise_scale is one sum whose terms cancel: judged by their size
        scale = (exact[1] * tensors[-2]).abs().sum()
        assert abs(ours[-1].double() - exact[-1]) <= torch.finfo(dtype).eps * scale
        ours, eager, exact = ours[:-1], eager[:-1], exact[:-1]
    assert_accurate(ours, eager, exact)
    if len(shape) == 4 and shape[2] * shape[3] > 1:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert ours[0].is_contiguous(memory_format=layout) and ours[1].is_contiguous(memory_format=layout)


def check_activation_far_out_and_near_zero(activation: str) -> None:
    """Through given statistics 0 and 1, so that z is x."""
    x = torch.cat([torch.linspace(-30, 30, 601), torch.logspace(-8, 0, 100), -torch.logspace(-8, 0, 100)])
    zero, one = torch.zeros(1), torch.ones(1)

    def ours(x: Tensor) -> Tensor:
        how = {"activation": activation, "negative_slope": Case("batch", activation).slope}
        return fused_ops.batch_norm_act(x[None, None], zero, one, eps=1e-30, **how)  # type: ignore[arg-type]

    def eager(x: Tensor) -> Tensor:
        return ACTIVATIONS[activation].function(x[None, None], 0.2)

    for our, their in zip(results(ours, [x]), results(eager, [x.double()]), strict=True):
        torch.testing.assert_close(our.double(), their, rtol=2e-6, atol=3e-7)


def check_large_mean(norm: str, channels_last: bool) -> None:
    """Mean 1e4, deviation 1, the first rows black: E[x^2] - E[x]^2 would lose all digits of the variance."""
    for first in (0.0, 1e4):
        case = Case(norm)
        tensors = case.tensors((2, 16, 24, 24), channels_last)
        tensors[0].div_(2).add_(1e4)
        tensors[0][:, :, :2] += first - 1e4
        exact = results(case.eager, [tensor.double() for tensor in tensors])
        ours, eager = results(case.fused, tensors), results(case.eager, tensors)
        for our, their, true in zip(ours, eager, exact, strict=True):
            # The mean that is kept is rounded, and how well that goes is luck; it is 1e-4 of a deviation.
            assert error_in_roundings(our, true) <= 4 * error_in_roundings(their, true) + 100


def _strided(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger memory."""
    room = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2), float("nan"))
    room[..., ::2] = tensor
    return room[..., ::2]


def check_any_strides() -> None:
    for case in (Case("batch", "relu", residual=True), Case("adain", noise=True)):
        tensors = case.tensors((3, 6, 5, 4))
        with use("reference"):
            expected = results(case.fused, tensors)
        permuted = [
            t.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) if t.dim() == 4 else t for t in tensors
        ]
        mixed = [tensors[0].contiguous(memory_format=torch.channels_last), *tensors[1:]]
        for variant in (permuted, mixed, [_strided(t) if t.dim() else t for t in tensors]):
            for our, their in zip(results(case.fused, variant), expected, strict=True):
                torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def check_expanded_gradient() -> None:
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    (found,) = torch.autograd.grad(fused_ops.group_norm_act(x, 2, activation="silu").sum(), x)
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(torch.nn.functional.group_norm(x, 2)).sum(), x)
    torch.testing.assert_close(found, expected)


def check_only_what_is_needed_gets_a_gradient(given: bool) -> None:
    for only in range(4):
        case = Case("running" if given else "batch", "silu", residual=True)
        tensors = case.tensors((2, 6, 8, 4))
        wanted = tensors[only].requires_grad_()
        (found,) = torch.autograd.grad(case.fused(*tensors).square().sum(), wanted)
        with use("reference"):
            (expected,) = torch.autograd.grad(case.fused(*tensors).square().sum(), wanted)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def check_gradient_of_noise() -> None:
    x, gamma, beta = torch.randn(2, 4, 5, 4), torch.randn(2, 4), torch.randn(2, 4)
    noise, scale = torch.randn(2, 1, 5, 4, requires_grad=True), torch.tensor(0.5)
    (found,) = torch.autograd.grad(fused_ops.adain(x, gamma, beta, noise, scale).square().sum(), noise)
    with use("reference"):
        (expected,) = torch.autograd.grad(fused_ops.adain(x, gamma, beta, noise, scale).square().sum(), noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def check_same_bits() -> None:
    case = Case("batch", "relu", residual=True)
    tensors = case.tensors((2, 6, 16, 16))
    for one, other in zip(results(case.fused, tensors), results(case.fused, tensors), strict=True):
        assert torch.equal(one, other)


def check_pooling(case: Case) -> None:
    """Odd sizes, single squares, both layouts; equal ones and NaN as in torch."""
    for shape in ((3, 6, 9, 7), (2, 5, 2, 3), (1, 34, 4, 4)):
        for channels_last in (False, True):
            check(case, shape, channels_last, torch.float32)
    x = torch.randint(-2, 3, (2, 5, 6, 8)).float()
    x[1, 2, 3, 4] = float("nan")
    leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    ours = fused_ops.batch_norm_act(leaves[0], torch.zeros(5), torch.ones(5), eps=1e-30, pool=2)
    theirs = torch.nn.functional.max_pool2d(leaves[1], 2)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    grad = torch.randn_like(ours)
    found, expected = (
        torch.autograd.grad(y, leaf, grad)[0] for y, leaf in zip((ours, theirs), leaves, strict=True)
    )
    finite = x == x
    torch.testing.assert_close(found[finite], expected[finite])


def check_not_a_number() -> None:
    """It shows in the running statistics, as torch's has it, and in all that its own ones normalize."""
    for channels_last in (False, True):
        x = torch.randn(2, 4, 5, 5)
        x[1, 2, 3, 3] = float("nan")
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        ours, theirs = ([torch.zeros(4), torch.ones(4)] for _ in range(2))
        y = fused_ops.batch_norm_act(x, *ours, training=True, activation="relu")
        expected = torch.nn.functional.batch_norm(x, *theirs, training=True).relu()
        for our, their in zip((y, *ours), (expected, *theirs), strict=True):
            torch.testing.assert_close(our, their, equal_nan=True)


def check_inplace(case: Case, channels_last: bool) -> None:
    """Without x in memory, but for elu, whose inverse takes a logarithm."""
    elu = case.activation == "elu"
    with contextlib.nullcontext() if elu else mock.patch.object(reference, "restored_input", None):
        for dtype in (torch.float32, torch.float16):
            for shape in SHAPES:
                check_restored(case, shape, channels_last, dtype)
