"""norm_act's CUDA kernels on an emulated device; whom the backend refuses."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fused_ops
from fused_ops import backends, explain, native, use
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act import running
from tests.fused_ops import emulated
from tests.fused_ops.norm_act import gpu_checks
from tests.fused_ops.norm_act.cases import CASES, POOLED, Case, results
from tests.fused_ops.norm_act.gpu_checks import SHAPES, check
from tests.fused_ops.norm_act.restored import INPLACE
from tests.fused_ops.norm_act.test_op import check_operands_are_checked

LOW = (torch.float16, torch.bfloat16)
# Blocks of a real size hold small rows whole; smaller ones must split them.
SIZES = pytest.mark.parametrize("most_threads", [512, 32], ids=["whole", "split"])


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def order(request: pytest.FixtureRequest) -> bool:
    """Whether threads run from the last to the first between barriers: results must not depend on it."""
    return bool(request.param)


@pytest.fixture
def device(order: bool) -> Iterator[None]:
    with emulated.device(reversed_order=order):
        yield


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case: Case, channels_last: bool) -> None:
    for shape in SHAPES:
        if case.serves(shape) and (not channels_last or len(shape) > 3):
            check(case, shape, channels_last, torch.float32)
    for dtype in LOW:
        check(case, SHAPES[0], channels_last, dtype)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_do_not_fit_on_chip(case: Case, channels_last: bool, order: bool) -> None:
    with emulated.device(most_threads=32, reversed_order=order):
        check(case, (3, 6, 20, 18), channels_last, torch.float32)
        check(case, (2, 4, 43, 25), channels_last, torch.bfloat16)
        check(case, (2, 66, 5, 3), channels_last, torch.float16)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("case", POOLED, ids=str)
def test_pooling(case: Case) -> None:
    gpu_checks.check_pooling(case)
    if case.activation != "silu":  # pooled in a second step, among rounded values
        for dtype in LOW:
            for channels_last in (False, True):
                check(case, (2, 16, 6, 24), channels_last, dtype)


def test_pooling_of_several_blocks() -> None:
    with emulated.device(most_threads=32):
        for channels_last in (False, True):
            check(Case("batch", "relu", residual=True, pool=2), (3, 10, 21, 18), channels_last, torch.float32)


@SIZES
def test_not_a_number(most_threads: int) -> None:
    with emulated.device(most_threads):
        gpu_checks.check_not_a_number()


@SIZES
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", INPLACE, ids=str)
def test_restored_inputs(case: Case, channels_last: bool, most_threads: int) -> None:
    with emulated.device(most_threads):
        gpu_checks.check_inplace(case, channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_parts_of_several_warps(channels_last: bool, order: bool) -> None:
    for case in (Case("batch", "relu", residual=True), Case("group", "silu"), Case("adain", noise=True)):
        with emulated.device(most_threads=128, processors=1, reversed_order=order):
            check(case, (2, 4, 64, 75), channels_last, torch.float32)
            check(case, (1, 260, 40, 5), channels_last, torch.float16)


def test_rows_of_many_parts(order: bool) -> None:
    """More than 128 parts, samples or channels of a row: a whole block merges them."""
    with emulated.device(most_threads=32, processors=64, reversed_order=order):
        for norm, shape, channels_last in (
            ("batch", (3, 40, 20, 18), True),
            ("batch", (140, 2, 5, 3), False),
            ("group", (1, 260, 3, 5), False),
        ):
            check(Case(norm, "silu", residual=True), shape, channels_last, torch.float32)


@pytest.mark.parametrize("channels_last", [False, True])
def test_wide_groups(channels_last: bool, order: bool) -> None:
    """Groups of more channels than a warp has lanes, or a tile columns."""
    for most_threads in (512, 64):
        with emulated.device(most_threads=most_threads, reversed_order=order):
            for case in (Case("group", "silu"), Case("group", "identity", residual=True)):
                check(case, (2, 132, 3, 3), channels_last, torch.float32)
                check(case, (2, 2 * 65, 2, 2), channels_last, torch.bfloat16)


def test_the_widest_groups_fill_shared_memory() -> None:
    """All of what a block has without asking for more: the emulated device refuses a byte beyond."""
    with emulated.device():
        check(Case("group", "silu"), (1, 2 * 512, 8, 4), True, torch.bfloat16)


@SIZES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, most_threads: int) -> None:
    with emulated.device(most_threads=most_threads):
        for residual in (False, True):
            check(Case("batch", activation, residual=residual), (3, 12, 6, 5), residual, torch.float32)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_far_out_and_near_zero(activation: str) -> None:
    gpu_checks.check_activation_far_out_and_near_zero(activation)


@SIZES
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_large_mean_costs_no_accuracy(norm: str, channels_last: bool, most_threads: int) -> None:
    with emulated.device(most_threads):
        gpu_checks.check_large_mean(norm, channels_last)


@pytest.mark.usefixtures("device")
def test_slices_and_offsets() -> None:
    """Also such as begin off a 16-byte boundary."""
    for room in (torch.randn(3, 12, 5, 3), torch.randn(3, 12, 5, 3).to(memory_format=torch.channels_last)):
        for x in (room[:, 4:10], room[1:], room[:, :, 1:]):
            expected = torch.nn.functional.relu(torch.nn.functional.batch_norm(x, None, None, training=True))
            found = fused_ops.batch_norm_act(x, None, None, training=True, activation="relu")
            torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("device")
def test_any_strides() -> None:
    gpu_checks.check_any_strides()


@pytest.mark.usefixtures("device")
def test_an_expanded_gradient() -> None:
    gpu_checks.check_expanded_gradient()


@SIZES
@pytest.mark.parametrize("given", [False, True])
def test_only_what_is_needed_gets_a_gradient(given: bool, most_threads: int) -> None:
    with emulated.device(most_threads):
        gpu_checks.check_only_what_is_needed_gets_a_gradient(given)


@pytest.mark.usefixtures("device")
def test_noise_gets_a_gradient() -> None:
    gpu_checks.check_gradient_of_noise()


@SIZES
def test_the_same_call_gives_the_same_bits(most_threads: int) -> None:
    with emulated.device(most_threads):
        gpu_checks.check_same_bits()


@pytest.mark.usefixtures("device")
def test_small_tensors_in_the_features_dtype() -> None:
    """gamma, beta and running statistics of bfloat16, as a model that was cast whole has them."""
    for case in (Case("batch", "relu"), Case("running", "relu"), Case("adain", noise=True)):
        tensors = [tensor.bfloat16() for tensor in case.tensors((2, 6, 8, 5))]
        with use("reference"):
            expected = results(case.fused, tensors)
        for our, their in zip(results(case.fused, tensors), expected, strict=True):
            assert our.dtype == torch.bfloat16
            torch.testing.assert_close(our, their, rtol=2e-2, atol=2e-2)


def test_the_number_of_launches() -> None:
    """One where rows fit on chip; the statistics of long ones take two more."""
    x = torch.randn(2, 6, 20, 18)
    for most_threads, expected in ((512, 1), (32, 3)):
        with emulated.device(most_threads):
            fused_ops.group_norm_act(x, 2)
            assert emulated.launches() == expected


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, *LOW])
@pytest.mark.parametrize("kind", ["BatchNorm2d", "InstanceNorm2d"])
def test_running_statistics_are_moved_in_a_launch(
    kind: str, dtype: torch.dtype, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "library_moves", lambda *tensors: True)
    channels, x = 300, torch.randn(2, 300, 3, 3, dtype=dtype) + 1
    options = {"momentum": momentum, "affine": False, "track_running_stats": True}
    layer = getattr(fused_ops, f"Fused{kind.replace('2d', 'Act2d')}")(channels, **options).to(dtype)
    exact = getattr(torch.nn, kind)(channels, **options).double()
    versions = layer.running_mean._version, layer.running_var._version
    for _ in range(2):
        before = emulated.launches()
        layer(x)
        exact(x.double())
        assert emulated.launches() == before + 2
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(layer, name).double(), getattr(exact, name), rtol=2 * torch.finfo(dtype).eps, atol=1e-6
        )
    assert versions == (layer.running_mean._version, layer.running_var._version)


def test_whose_running_statistics_the_library_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not_cuda", lambda tensor: None)

    def on_card(tensor: torch.Tensor) -> Any:
        return SimpleNamespace(
            is_cuda=True, dtype=tensor.dtype, is_contiguous=tensor.is_contiguous, device=torch.device("cuda")
        )

    def moves(mean: torch.Tensor, var: torch.Tensor, of_batch: torch.Tensor) -> bool:
        return running.library_moves(*map(on_card, (mean, var, of_batch)))

    one = torch.zeros(4)
    assert moves(one, one, one) and moves(one.half(), one.half(), one)
    assert not moves(one, one.half(), one)
    assert not moves(one, one, one.double())
    assert not moves(one, torch.zeros(8)[::2], one) and not moves(torch.zeros(8)[::2], one, one)
    with use("cuda"):
        assert moves(one, one, one)
    for backend in ("triton", "reference"):
        with use(backend):
            assert not moves(one, one, one)
    assert not running.library_moves(one, one, one)
    monkeypatch.setattr(native, "why_not_cuda", lambda tensor: "built for others")
    assert not moves(one, one, one)


def test_whom_it_refuses() -> None:
    x = torch.randn(2, 4, 3, 3)
    assert explain(fused_ops.group_norm_act, x, 2)[0].reasons["cuda"] == "the tensors are on cpu"
    with use("cuda"), pytest.raises(RuntimeError, match="cannot serve this call: the tensors are on cpu"):
        fused_ops.group_norm_act(x, 2)


def test_refused_dtypes_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard:
        device = torch.device("cuda", 0)

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.dtype = tensor, tensor.dtype

        def __getattr__(self, name: str) -> object:
            return getattr(self.tensor, name)

    def reason(tensor: torch.Tensor, gamma: torch.Tensor | None = None) -> str | None:
        refuses = backends._implementations["norm_act"]["cuda"].refuses
        return refuses(OnCard(tensor), gamma, None, None, None, None, None, None, 0, 1e-5, 0, 0.0)

    monkeypatch.setattr(native, "why_not_card", lambda index: None)
    x = torch.empty(2, 4, 3, 3)
    assert reason(x) is None
    assert reason(x.double()) == "it has no kernel for torch.float64"
    assert reason(x[:0]) == "the tensors are empty"
    assert "with statistics per sample" in str(reason(x, torch.empty(2, 4)))
    large = torch.empty(1).expand(2**20, 1, 2**10, 1)
    assert reason(large) == "it counts the pixels and the planes of a tensor in 30 bits"
    monkeypatch.setattr(native, "why_not_card", lambda index: "built for others")
    assert reason(x) == "built for others"


def test_the_library_checks_its_operands() -> None:
    with emulated.device():
        check_operands_are_checked(torch.ops.fused_ops_emulated)
        move, one = torch.ops.fused_ops_emulated.norm_act_move, torch.ones(4)
        wrong = (one[:3], one.half(), torch.ones(8)[::2])
        calls = [
            (*(bad if i == place else one for i in range(4)), 0.1, 1.0) for bad in wrong for place in range(4)
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="norm_act: running statistics must be contiguous"):
                move(*call)
