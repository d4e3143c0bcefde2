"""norm_act's Triton kernels in the interpreter; test_triton.py starts these tests with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_ops
from fused_ops import backends, explain, tuning, use
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act import triton_kernels, triton_launch, triton_pool
from fused_ops.norm_act.triton_plan import Geometry, finish_constants
from fused_ops.triton_support import Card
from tests.fused_ops.far_apart import far_apart
from tests.fused_ops.norm_act import gpu_checks
from tests.fused_ops.norm_act.cases import CASES, POOLED, Case, results
from tests.fused_ops.norm_act.gpu_checks import SHAPES, check
from tests.fused_ops.norm_act.restored import INPLACE

SMALL_TILES = {
    "row": 1, "row_last": 1, "wanted": 16, "row_per_thread": 16,
    "tile": 256, "per_thread": 16, "per_processor": 5, "stages": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _triton() -> Iterator[None]:
    with use("triton"):
        yield


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows that do not fit on chip: several tiles per program, merged in several steps, as of large ones."""
    monkeypatch.setattr(triton_launch, "card_for", lambda tensor: Card("tiny", (9, 0), 1, 0))
    monkeypatch.setattr(
        triton_launch, "finish_constants", lambda g, rows: {**finish_constants(g, rows), "BLOCK_R": 2}
    )
    table = {f"norm_act.{way}": [{"when": {}, "launch": SMALL_TILES}] for way in ("forward", "backward")}
    with tuning.table_given("sm_90", table):
        yield


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    for shape in SHAPES:
        if case.serves(shape):
            check(case, shape, False, torch.float32)
    check(case, SHAPES[0], True, torch.float32)
    for channels_last in (False, True):
        check(case, SHAPES[0], channels_last, torch.float16)


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_do_not_fit_on_chip(case: Case, channels_last: bool) -> None:
    check(case, (3, 6, 20, 18), channels_last, torch.float32)


@pytest.mark.usefixtures("split")
def test_odd_shapes_of_rows_that_do_not_fit_on_chip() -> None:
    for case in (Case("batch", "relu"), Case("group", "silu"), Case("instance", "gelu", residual=True)):
        for shape in ((2, 66, 5, 3), (1, 1, 1, 2), (4, 6, 13)):
            check(case, shape, False, torch.float16)


@pytest.mark.parametrize("case", POOLED, ids=str)
def test_pooling(case: Case) -> None:
    gpu_checks.check_pooling(case)
    if case.activation != "silu":  # pooled in a second step, among rounded values
        for channels_last in (False, True):
            check(case, (2, 6, 6, 8), channels_last, torch.float16)


@pytest.mark.usefixtures("split")
def test_pooling_of_several_tiles() -> None:
    for channels_last in (False, True):
        check(Case("batch", "relu", residual=True, pool=2), (3, 6, 20, 18), channels_last, torch.float32)
        check(Case("group", "tanh", pool=2), (2, 66, 5, 6), channels_last, torch.float32)


@pytest.mark.usefixtures("rows")
def test_not_a_number() -> None:
    gpu_checks.check_not_a_number()


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", INPLACE, ids=str)
def test_restored_inputs(case: Case, channels_last: bool) -> None:
    gpu_checks.check_inplace(case, channels_last)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    for residual in (False, True):
        check(Case("batch", activation, residual=residual), (3, 12, 6, 5), residual, torch.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out_and_near_zero(activation: str) -> None:
    gpu_checks.check_activation_far_out_and_near_zero(activation)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_large_mean_costs_no_accuracy(
    norm: str, channels_last: bool, request: pytest.FixtureRequest
) -> None:
    gpu_checks.check_large_mean(norm, channels_last)
    request.getfixturevalue("split")
    gpu_checks.check_large_mean(norm, channels_last)


def test_slices_are_read_where_they_lie() -> None:
    planes = torch.randn(3, 12, 5, 4)[:, 4:10]
    last = torch.randn(3, 12, 5, 4).contiguous(memory_format=torch.channels_last)[:, 4:10]
    for x in (planes, last):
        assert Geometry.of(x, 0, False).rows(x)[0] is x
        expected = torch.nn.functional.relu(torch.nn.functional.batch_norm(x, None, None, training=True))
        for residual in (None, planes, last):
            found = fused_ops.batch_norm_act(
                x, None, None, training=True, activation="relu", residual=residual
            )
            if residual is None:
                torch.testing.assert_close(found, expected)


@pytest.fixture(params=[True, False], ids=["whole", "split"])
def rows(request: pytest.FixtureRequest) -> None:
    """Rows that fit on chip, and such that do not."""
    if not request.param:
        request.getfixturevalue("split")


# Of [2, 4, 6, 4], by whether channels are adjacent.
FAR_STRIDES = {False: ((1 << 31) + 64, 24, 4, 1), True: (24 << 26, 1, 4 << 26, 1 << 26)}


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("channels_last", FAR_STRIDES)
def test_offsets_beyond_31_bits(channels_last: bool) -> None:
    residual = Case("batch", "relu", residual=True)
    for case in (residual, Case("group", "silu"), replace(residual, pool=2)):
        tensors = case.tensors((2, 4, 6, 4))
        expected = results(case.eager, tensors)
        large = [tensor for tensor in tensors if tensor.dim() == 4]
        far = far_apart(large, FAR_STRIDES[channels_last])
        for tensor in far:
            assert Geometry.of(tensor, 0, False).rows(tensor)[0] is tensor
        moved = dict(zip(map(id, large), far, strict=True))
        ours = results(case.fused, [moved.get(id(tensor), tensor) for tensor in tensors])
        for our, their in zip(ours, expected, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("channels_last", FAR_STRIDES)
@pytest.mark.parametrize("pool", [1, 2])
def test_gradients_beyond_31_bits(pool: int, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 4, 6 * pool, 4 * pool).contiguous(memory_format=layout).requires_grad_()
    grad = torch.randn(2, 4, 6, 4)
    (far,) = far_apart([grad], FAR_STRIDES[channels_last])
    y = fused_ops.group_norm_act(x, 2, activation="relu", pool=pool)
    found, expected = (torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in (far, grad))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_row_of_more_elements_than_31_bits_count(at_once: int) -> None:
    """Only its partial statistics are there: four means and sums of squares, each of 2^29 elements."""
    chunks, size = 2, 1 << 29
    g = Geometry(1, 2, chunks * size, False, torch.contiguous_format, False, 2)
    means = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    partial = torch.stack([means, torch.full_like(means, size)])
    mean, var = torch.empty(1), torch.empty(1)
    constants = {**finish_constants(g, chunks), "BLOCK_R": at_once}
    triton_kernels.finish_statistics[(1,)](
        partial, mean, var, chunks, chunks, size, *g.sizes(), UNIT=g.unit, **constants
    )
    torch.testing.assert_close(mean, means.mean()[None])
    torch.testing.assert_close(var, means.var(correction=0)[None] + 1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("width", [8, 7])
def test_a_gradient_is_unpooled_without_a_copy(width: int, channels_last: bool) -> None:
    class Ops(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(op.overloadpacket.__name__)
            return op(*args, **(kwargs or {}))

    layout = torch.channels_last if channels_last else torch.contiguous_format
    grad = torch.randn(2, 4, 3, width // 2).contiguous(memory_format=layout)
    winner = torch.zeros_like(grad, dtype=torch.uint8)
    with Ops() as ops:
        grad_z = triton_pool.unpool(grad, None, winner, 6, width, 0, 0.0)
    assert grad_z.is_contiguous(memory_format=layout)
    assert "clone" not in ops.names


def test_any_strides() -> None:
    gpu_checks.check_any_strides()


def test_an_expanded_gradient() -> None:
    gpu_checks.check_expanded_gradient()


@pytest.mark.parametrize("given", [False, True])
def test_only_what_is_needed_gets_a_gradient(given: bool, request: pytest.FixtureRequest) -> None:
    gpu_checks.check_only_what_is_needed_gets_a_gradient(given)
    request.getfixturevalue("split")
    gpu_checks.check_only_what_is_needed_gets_a_gradient(given)


def test_noise_gets_a_gradient() -> None:
    gpu_checks.check_gradient_of_noise()


@pytest.mark.usefixtures("split")
def test_the_same_call_gives_the_same_bits() -> None:
    gpu_checks.check_same_bits()


def test_whom_it_refuses() -> None:
    x = torch.randn(2, 4, 3, 3)
    assert explain(fused_ops.group_norm_act, x, 2)[0].backend == "triton"
    with use("auto"):
        reasons = explain(fused_ops.group_norm_act, x, 2)[0].reasons
        assert reasons["triton"] == "the tensors are on cpu"
    for dtype, reason in (
        (torch.float64, "no kernel for torch.float64"),
        (torch.bfloat16, "bfloat16 wrongly"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            fused_ops.group_norm_act(x.to(dtype), 2)
    with pytest.raises(RuntimeError, match="the tensors are empty"):
        fused_ops.group_norm_act(x[:0], 2)
    per_sample = torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="with statistics per sample"):
        backends.compute("norm_act", x, per_sample, None, None, None, None, None, None, 0, 1e-5, 0, 0.0)
