"""pool=2: norm, residual, activation and 2 x 2 max-pooling in one pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fused_ops
from fused_ops import FusedBatchNormAct2d, FusedInstanceNormAct2d, explain, use
from tests.fused_ops.norm_act.cases import POOLED, Case, results
from tests.fused_ops.norm_act.test_accuracy import check_accuracy
from tests.numerics import saved_bytes

POOL_OP = torch.ops.fused_ops.norm_act_pool.default
UNPOOL_OP = torch.ops.fused_ops.norm_act_pool_backward.default
# Odd sizes, planes and rows shorter and longer than a vector, a single square.
SHAPES = [(3, 8, 9, 7), (2, 3, 4, 4), (2, 66, 5, 3), (1, 2, 2, 2), (2, 5, 2, 75), (3, 17, 34, 33)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_as_accurate_as_eagers(
    shape: tuple[int, ...], dtype: torch.dtype, backend: str
) -> None:
    with use(backend):
        for case in POOLED:
            for channels_last in (False, True):
                # silu is pooled in a second step, among rounded values: in bfloat16 many are equal
                if case.serves(shape) and (case.activation, dtype) != ("silu", torch.bfloat16):
                    check_accuracy(case, shape, channels_last, dtype)


def test_accuracy_with_several_threads() -> None:
    torch.set_num_threads(2)
    for case in POOLED:
        for channels_last in (False, True):
            for shape in ((3, 1, 128, 110), (1, 5, 83, 80), (2, 130, 13, 11)):
                check_accuracy(case, shape, channels_last, torch.float32)


@pytest.mark.parametrize("case", POOLED, ids=str)
def test_first_and_second_derivatives(case: Case, backend: str) -> None:
    for channels_last in (False, True):
        tensors = [tensor.double().requires_grad_() for tensor in case.tensors((2, 4, 3, 4), channels_last)]
        with use(backend):
            assert torch.autograd.gradcheck(case.fused, tensors)
            assert torch.autograd.gradgradcheck(case.fused, tensors)


@pytest.mark.parametrize("channels_last", [False, True])
def test_of_equal_ones_the_first_gets_the_gradient(channels_last: bool, backend: str) -> None:
    """As in torch, whose choice it is."""
    x = torch.randint(-2, 3, (3, 20, 10, 38)).float()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    mean, var = torch.zeros(20), torch.ones(20)
    leaf = x.clone().requires_grad_()
    expected = F.max_pool2d(leaf, 2)
    with use(backend):
        own = x.clone().requires_grad_()
        found = fused_ops.batch_norm_act(own, mean, var, eps=1e-30, pool=2)
        assert torch.equal(found, expected)
        grad = torch.randn_like(found)
        assert torch.equal(
            torch.autograd.grad(found, own, grad)[0], torch.autograd.grad(expected, leaf, grad)[0]
        )


@pytest.mark.parametrize("channels_last", [False, True])
def test_not_a_number_is_the_largest(channels_last: bool, backend: str) -> None:
    x = torch.randn(2, 3, 6, 36)
    for place in range(4):
        x[1, place % 3, place // 2, place % 2 + 2 * place] = float("nan")
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with use(backend):
        found = fused_ops.batch_norm_act(x, torch.zeros(3), torch.ones(3), activation="relu", pool=2)
    expected = F.max_pool2d(F.relu(F.batch_norm(x, torch.zeros(3), torch.ones(3))), 2)
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("case", [case for case in POOLED if case.activation != "silu"], ids=str)
def test_what_is_kept_for_the_backward(case: Case, backend: str) -> None:
    """x, the winners, and the pooled y where the derivative needs it; not the un-pooled result."""
    tensors = [tensor.requires_grad_() for tensor in case.tensors((4, 16, 20, 20))]
    small = [tensor for tensor in tensors if tensor.dim() < 3]
    with use(backend):
        kept = saved_bytes(lambda: case.fused(*tensors), ignore=small)
    elements = tensors[0].numel()
    statistics = 2 * 4 * (16 if case.norm in ("batch", "running") else 4 * 16)
    assert kept <= 4 * elements + elements // 4 * 5 + statistics


def test_without_gradients_no_winners_are_found(backend: str) -> None:
    with use(backend):
        x = torch.randn(2, 4, 6, 6)
        *_, winner = POOL_OP(x, None, None, None, None, None, 0, 1e-5, 1, 0.0, False)
        assert winner.numel() == 0
        with pytest.raises(RuntimeError, match="need_winner must be True"):
            POOL_OP(x.requires_grad_(), None, None, None, None, None, 0, 1e-5, 1, 0.0, False)


def test_mixed_layouts(backend: str) -> None:
    case = Case("batch", "relu", residual=True, pool=2)
    tensors = case.tensors((3, 6, 6, 8))
    with use("reference"):
        expected = results(case.fused, tensors)
    x, weight, bias, residual = tensors
    last = {"memory_format": torch.channels_last}
    for mixed in (
        [x.contiguous(**last), weight, bias, residual],  # type: ignore[call-overload]
        [x, weight, bias, residual.contiguous(**last)],  # type: ignore[call-overload]
        [x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0), weight, bias, residual],
    ):
        with use(backend):
            found = results(case.fused, mixed)
        for our, their in zip(found, expected, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


def test_opcheck(backend: str) -> None:
    x, gamma, beta, residual = (torch.randn(s) for s in ((2, 4, 5, 6), (4,), (4,), (2, 4, 5, 6)))
    last = x.contiguous(memory_format=torch.channels_last)
    rest = (0, 1e-5, 1, 0.0, True)
    leaf = [tensor.clone().requires_grad_() for tensor in (x, gamma, beta, residual)]
    with use(backend):
        torch.library.opcheck(POOL_OP, (*leaf, None, None, *rest))
        torch.library.opcheck(POOL_OP, (last, gamma, beta, None, torch.zeros(4), torch.ones(4), *rest))
        y, _, _, winner = POOL_OP(last, gamma, beta, None, None, None, *rest)
        torch.library.opcheck(UNPOOL_OP, (torch.randn_like(y).requires_grad_(), y, winner, 5, 6, 1, 0.0))


def test_under_compile_and_vmap(backend: str) -> None:
    norm = FusedBatchNormAct2d(4, activation="relu", pool=2)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    with use(backend):
        compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
        (expected,) = torch.autograd.grad(norm(x).square().sum(), x)
        (found,) = torch.autograd.grad(compiled(x).square().sum(), x)
        torch.testing.assert_close(found, expected)
        y = norm(x)
        grads = torch.randn(3, *y.shape)
        (batched,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
        for index, grad in enumerate(grads):
            torch.testing.assert_close(batched[index], torch.autograd.grad(y, x, grad, retain_graph=True)[0])


def test_autocast_keeps_the_dtype_of_x(backend: str) -> None:
    norm = FusedInstanceNormAct2d(4, affine=True, activation="relu", pool=2)
    with use(backend), torch.autocast("cpu", torch.bfloat16):
        y = norm(torch.randn(2, 4, 6, 6).bfloat16(), residual=torch.randn(2, 4, 6, 6))
    assert y.dtype == torch.bfloat16


def test_activations_that_decrease_are_pooled_afterwards() -> None:
    x = torch.randn(2, 4, 6, 6)
    for activation, op in (("relu", "norm_act_pool"), ("gelu", "norm_act")):
        decisions = explain(fused_ops.group_norm_act, x, 2, activation=activation, pool=2)
        assert [decision.op for decision in decisions] == [op]


@pytest.mark.parametrize(
    ("x", "pool", "message"),
    [
        (torch.ones(2, 4, 6, 6), 3, "pool is 3; it must be 1 (no pooling) or 2"),
        (torch.ones(2, 4, 6, 6), True, "pool is True; it must be 1 (no pooling) or 2"),
        (torch.ones(2, 4, 6), 2, "x must be [N, C, H, W], H and W at least 2, to be pooled; got [2, 4, 6]"),
        (torch.ones(2, 4, 6, 1), 2, "got [2, 4, 6, 1]"),
    ],
)
def test_bad_arguments_are_named(x: torch.Tensor, pool: int, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        fused_ops.group_norm_act(x, 2, pool=pool)
    assert message in str(raised.value)


def test_modules_check_and_tell() -> None:
    for pool in (4, True):
        with pytest.raises(ValueError, match=f"pool is {pool}"):
            FusedBatchNormAct2d(4, pool=pool)
    assert "pool=2" in repr(FusedBatchNormAct2d(4, activation="relu", pool=2))
