"""norm_act's Triton kernels in the interpreter; test_triton.py starts these tests with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fused_ops
from fused_ops import backends, explain, tuning, use
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act import triton_launch
from fused_ops.norm_act.triton_plan import Geometry
from fused_ops.triton_support import Card
from tests.fused_ops.norm_act import gpu_checks
from tests.fused_ops.norm_act.cases import CASES, POOLED, Case
from tests.fused_ops.norm_act.gpu_checks import SHAPES, check

SMALL_TILES = {"row": 1, "wanted": 16, "tile": 256, "tiles": 4, "per_thread": 16}


@pytest.fixture(autouse=True)
def _triton() -> Iterator[None]:
    with use("triton"):
        yield


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not fit on chip, in several tiles per program, as large tensors have them."""
    monkeypatch.setattr(tuning, "choose", lambda *args, **facts: SMALL_TILES)
    monkeypatch.setattr(triton_launch, "card_for", lambda tensor: Card("tiny", (9, 0), 1, 0))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case) -> None:
    for shape in SHAPES:
        if case.serves(shape):
            check(case, shape, False, torch.float32)
    check(case, SHAPES[0], True, torch.float32)
    check(case, SHAPES[0], False, torch.float16)


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


@pytest.mark.usefixtures("split")
def test_pooling_of_several_tiles() -> None:
    for channels_last in (False, True):
        check(Case("batch", "relu", residual=True, pool=2), (3, 6, 20, 18), channels_last, torch.float32)
        check(Case("group", "tanh", pool=2), (2, 66, 5, 6), channels_last, torch.float32)


def test_restored_inputs() -> None:
    gpu_checks.check_inplace()


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
