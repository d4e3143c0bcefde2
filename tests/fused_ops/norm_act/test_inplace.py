"""inplace=True: the output is kept instead of the input, which the backward computes again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fused_ops
from fused_ops import FusedBatchNormAct2d, FusedInstanceNormAct2d, use
from tests.fused_ops.norm_act.cases import SHAPES, Case
from tests.fused_ops.norm_act.restored import INPLACE, check_restored
from tests.numerics import saved_bytes


@pytest.mark.parametrize("case", INPLACE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gradients_are_those_of_the_input_kept(case: Case, channels_last: bool, backend: str) -> None:
    for shape in SHAPES:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            with use(backend):
                check_restored(case, shape, channels_last, dtype)


def test_only_the_output_is_kept(backend: str) -> None:
    conv = nn.Conv2d(16, 16, 3, padding=1)
    norms = [
        FusedBatchNormAct2d(16, activation="leaky_relu", inplace=inplace).requires_grad_(False)
        for inplace in (False, True)
    ]
    x = torch.randn(4, 16, 20, 20)
    with use(backend):
        # the input of a norm is nobody else's, its output the next convolution's as well
        kept = [saved_bytes(lambda norm=norm: conv(norm(conv(x))), ignore=[x, conv.weight]) for norm in norms]
    assert kept[0] - kept[1] == x.numel() * x.element_size()


def test_nothing_is_written_to_the_input(backend: str) -> None:
    x = torch.randn(2, 6, 9, 8, requires_grad=True)
    before = x.detach().clone()
    with use(backend):
        FusedInstanceNormAct2d(6, activation="leaky_relu", inplace=True)(x).square().sum().backward()
    assert torch.equal(x, before)


def test_the_output_must_stay_as_it_is(backend: str) -> None:
    with use(backend):
        y = fused_ops.group_norm_act(torch.randn(2, 4, 8, 8, requires_grad=True), 2, inplace=True)
        y.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_too_small_for_it_are_refused(dtype: torch.dtype, channels_last: bool, backend: str) -> None:
    x = torch.randn(2, 6, 9, 8).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    eps = torch.finfo(dtype).eps
    for weight, bias, good in (
        (0.0, 0.0, False),
        (4 * eps, 1.0, False),
        (16 * eps, 1.0, True),
        (1e-6, 0.0, True),
    ):
        norm = FusedBatchNormAct2d(6, activation="leaky_relu", inplace=True)
        with torch.no_grad():
            norm.weight[4], norm.bias[4] = weight, bias
        with use(backend):
            y = norm(x.clone().requires_grad_())
            if good:
                y.float().sum().backward()
            else:
                with pytest.raises(RuntimeError, match=r"weight is too small .* inplace=False \(channel 4\)"):
                    y.float().sum().backward()


def test_there_is_no_second_derivative(backend: str) -> None:
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with use(backend):
        y = fused_ops.group_norm_act(x, 2, activation="leaky_relu", inplace=True)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="there are no second derivatives; use inplace=False"):
            grad.sum().backward()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "relu"}, ValueError, "one of 'identity', 'leaky_relu', 'elu', got 'relu'"),
        (
            {"activation": "leaky_relu", "negative_slope": 0},
            ValueError,
            "negative_slope must then be above 0",
        ),
        ({"pool": 2}, ValueError, "x does not follow from a pooled output"),
        ({"residual": torch.ones(2, 4, 8, 8)}, ValueError, "with a residual x does not follow"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        fused_ops.group_norm_act(torch.ones(2, 4, 8, 8), 2, inplace=True, **options)  # type: ignore[arg-type]
    if "residual" not in options:
        with pytest.raises(error, match=message):
            FusedBatchNormAct2d(4, inplace=True, **options)  # type: ignore[arg-type]


def test_elu_needs_more_than_sixteen_bits() -> None:
    with pytest.raises(TypeError, match=r"elu needs float32 or float64 for it, x is torch.bfloat16"):
        fused_ops.group_norm_act(torch.ones(2, 4, 8, 8).bfloat16(), 2, activation="elu", inplace=True)


def test_a_module_tells_of_it() -> None:
    assert "activation='leaky_relu', inplace=True" in repr(
        FusedBatchNormAct2d(4, activation="leaky_relu", inplace=True)
    )
