"""How accurate norm_act is on every backend: as eager PyTorch, against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fused_ops import backends, batch_norm_act, native, use
from fused_ops.activations import ACTIVATIONS
from tests.fused_ops.norm_act.cases import (
    CASES,
    SHAPES,
    SHAPES_FOR_THREADS,
    Case,
    results,
)
from tests.numerics import assert_as_accurate_as_eager, error_in_roundings, outputs_and_gradients

OP = torch.ops.fused_ops.norm_act.default


def is_in_format(y: Tensor, x: Tensor) -> bool:
    if y.shape != x.shape:  # pooled
        x = torch.empty(y.shape).contiguous(
            memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last
        )
    significant = [dim for dim, size in enumerate(x.shape) if size > 1]
    return [y.stride(dim) for dim in significant] == [x.stride(dim) for dim in significant]


def stacked(rounds: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(results_of_one) for results_of_one in zip(*rounds, strict=True)]


def check_accuracy(case: Case, shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype) -> None:
    """Three draws are judged together, since the error of a single sum is a matter of luck."""
    draws = [case.cast(case.tensors(shape, channels_last), dtype) for _ in range(3)]
    ours = [results(case.fused, tensors) for tensors in draws]
    eager = stacked([results(case.eager, tensors) for tensors in draws])
    exact = stacked([results(case.eager, [t.double() for t in tensors], dtype) for tensors in draws])
    if dtype == torch.float64:
        torch.testing.assert_close(stacked(ours), exact)
    elif backends.requested() == "reference":  # sums in single precision, torch's norms in double
        for our, their, true in zip(stacked(ours), eager, exact, strict=True):
            assert error_in_roundings(our, true) <= 8 * error_in_roundings(their, true) + 8
    else:
        assert_as_accurate_as_eager(stacked(ours), eager, exact)
    assert is_in_format(ours[0][0], draws[0][0])
    assert is_in_format(ours[0][1], draws[0][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_as_accurate_as_eagers(
    shape: tuple[int, ...], dtype: torch.dtype, backend: str
) -> None:
    with use(backend):
        for case in CASES:
            for channels_last in (False, True) if len(shape) > 3 else (False,):
                if case.serves(shape):
                    check_accuracy(case, shape, channels_last, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES_FOR_THREADS, ids=str)
def test_accuracy_with_several_threads(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.set_num_threads(2)
    for case in CASES:
        for channels_last in (False, True):
            check_accuracy(case, shape, channels_last, dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_with_and_without_residual(activation: str, backend: str) -> None:
    with use(backend):
        for residual in (False, True):
            for channels_last in (False, True):
                for dtype in (torch.float32, torch.bfloat16):
                    check_accuracy(
                        Case("batch", activation, residual=residual), (3, 20, 6, 5), channels_last, dtype
                    )


SMALLEST = torch.finfo(torch.float32).tiny
MAGNITUDES = (
    1e-3,
    1.0,
    5.0,
    20.0,
    88.0,
    104.0,
    200.0,
    750.0,
    1e4,
    1e30,
)  # 88, 104: where exp ends in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_at_any_magnitude(activation: str, dtype: torch.dtype, backend: str) -> None:
    """Given statistics pass x through unchanged, so that what the activation gets is as large as x."""
    channels = 16
    mean, var = torch.zeros(channels), torch.ones(channels)

    def through(compute: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
        return outputs_and_gradients(lambda z: [compute(z)], [x], dtype)

    def plain(z: Tensor) -> Tensor:
        return ACTIVATIONS[activation].function(z, 0.01)

    def fused(z: Tensor) -> Tensor:
        return batch_norm_act(z, mean, var, eps=1e-30, activation=activation, negative_slope=slope)

    slope = 0.01 if ACTIVATIONS[activation].default_slope is not None else None
    for magnitude in MAGNITUDES:
        x = (torch.rand(2, channels, 3, 7) / 2 + 0.5) * magnitude * torch.randn(2, channels, 3, 7).sign()
        x = x.to(dtype)
        with use(backend):
            ours = through(fused, x)
        exact = through(plain, x.double())
        for our, true in zip(ours, exact, strict=True):
            if true.abs().max() < SMALLEST:  # a sigmoid may end in the smallest number instead of zero
                assert our.abs().max() < 8 * SMALLEST
                our.copy_(true)
        assert_as_accurate_as_eager(ours, through(plain, x), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_silu_of_the_lowest_numbers(dtype: torch.dtype, backend: str) -> None:
    """Zero, however low; and of minus infinity no number, as torch has it."""
    x = torch.tensor([-1e36, -3e38, float("-inf")], dtype=dtype)[None].expand(2, 3)
    with use(backend):
        given = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
        y = batch_norm_act(x, *given, eps=1e-30, activation="silu")
    torch.testing.assert_close(y, torch.nn.functional.silu(x), rtol=0, atol=1e-35, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "adain"])
def test_a_large_mean_costs_no_accuracy(norm: str, channels_last: bool, backend: str) -> None:
    """Mean 1e4, deviation 1: E[x^2] - E[x]^2 would lose all digits of the variance in float32."""
    case = Case(norm)
    for first in (0.0, 1e4):  # the first rows may be black
        tensors = case.tensors((4, 16, 24, 24), channels_last)
        tensors[0].div_(2).add_(1e4)
        tensors[0][:, :, :2] += first - 1e4
        exact = results(case.eager, [tensor.double() for tensor in tensors])
        with use(backend):
            ours = results(case.fused, tensors)
        assert_as_accurate_as_eager(ours, results(case.eager, tensors), exact)


def test_the_statistics_are_exact_for_large_counts(backend: str) -> None:
    x = torch.randn(4, 3, 200, 200) + 100
    with use(backend):
        for channels_last in (False, True):
            data = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            _, mean, var = OP(data, None, None, None, None, None, None, None, 0, 1e-5, 0, 0.0, False)
            exact_var, exact_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
            torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-7, atol=0)
            torch.testing.assert_close(var.double(), exact_var, rtol=2e-7, atol=0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_bad_guess_of_the_mean_costs_no_accuracy(channels_last: bool) -> None:
    """The native kernels measure around the mean of a few elements spread over the block; here these alone
    are black. The deviations from their mean are alike then, and so are the roundings of the squares, some
    1e-5 of the variance, which a second pass mends."""
    if not native.cpu_library().loaded:
        pytest.skip(native.cpu_library().reason)
    x = torch.full((1, 64, 64, 64) if channels_last else (1, 2, 256, 256), 1.2345)
    if channels_last:  # every eighth of the pixels
        x = x.contiguous(memory_format=torch.channels_last)
        x.flatten(2)[:, :, ::512] = 0
    else:
        x.view(2, -1, 16384)[:, :, :16] = 0
    with use("cpu"):
        _, mean, var = OP(x, None, None, None, None, None, None, None, x.size(1), 1e-5, 0, 0.0, False)
    exact_var, exact_mean = torch.var_mean(x.double(), (2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean.flatten(), rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), exact_var.flatten(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_the_plainer_instruction_sets_are_as_accurate(isa: str) -> None:
    """In a process of its own, since the choice is made once; the best set is tested above."""
    if not native.cpu_library().loaded:
        pytest.skip(native.cpu_library().reason)
    code = """if True:
        import torch
        from fused_ops import use
        from tests.fused_ops.norm_act import cases, test_accuracy
        torch.manual_seed(0)
        with use("cpu"):
            for shape in cases.SHAPES[:4]:
                for case in filter(lambda case: case.serves(shape), cases.CASES):
                    for dtype in (torch.float32, torch.bfloat16, torch.float64):
                        for channels_last in (False, True):
                            test_accuracy.check_accuracy(case, shape, channels_last, dtype)
            for activation in test_accuracy.ACTIVATIONS:
                case = cases.Case("batch", activation)
                test_accuracy.check_accuracy(case, (3, 20, 6, 5), True, torch.float32)
    """
    environment = {**os.environ, "FUSED_OPS_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        cwd=os.getcwd(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
