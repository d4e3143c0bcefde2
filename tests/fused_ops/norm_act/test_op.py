"""norm_act on every backend: layouts, what it keeps, and its manners within torch (values: test_accuracy)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fused_ops
from fused_ops import native, use
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act import reference
from tests.fused_ops.norm_act.cases import CASES, Case, results
from tests.numerics import saved_bytes

OP = torch.ops.fused_ops.norm_act.default
BACKWARD_OP = torch.ops.fused_ops.norm_act_backward.default


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivatives(case: Case, backend: str) -> None:
    for channels_last in (False, True):
        tensors = [tensor.double().requires_grad_() for tensor in case.tensors((2, 4, 3, 2), channels_last)]
        with use(backend):
            assert torch.autograd.gradcheck(case.fused, tensors)
            assert torch.autograd.gradgradcheck(case.fused, tensors)


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(CASES), n=st.integers(1, 5), channels=st.integers(1, 70), height=st.integers(1, 20),
    width=st.integers(1, 40), channels_last=st.booleans(), threads=st.integers(1, 3),
)  # fmt: skip
def test_any_shape_agrees_with_the_reference(
    case: Case, n: int, channels: int, height: int, width: int, channels_last: bool, threads: int
) -> None:
    shape = (n, channels, height, width)
    if height * width == 1 and (not case.serves(shape) or n == 1):
        return
    torch.set_num_threads(threads)
    tensors = [tensor.double() for tensor in case.tensors(shape, channels_last)]
    with use("reference"):
        expected = results(case.fused, tensors)
    for our, their in zip(results(case.fused, tensors), expected, strict=True):
        torch.testing.assert_close(our, their)


def strided(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger memory that starts at an offset."""
    room = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2 + 1), float("nan"))
    room[..., 1::2] = tensor
    return room[..., 1::2]


def channel_slice(tensor: Tensor) -> Tensor:
    """The same values, some of the channels of a larger channels_last tensor."""
    n, c, h, w = tensor.shape
    room = torch.full((n, 2 * c, h, w), float("nan")).contiguous(memory_format=torch.channels_last)
    room[:, c:] = tensor
    return room[:, c:]


@pytest.mark.parametrize("case", [case for case in CASES if case.activation != "elu"], ids=str)
def test_views_and_mixed_layouts(case: Case, backend: str) -> None:
    tensors = case.tensors((3, 6, 5, 4))
    with use("reference"):
        expected = results(case.fused, tensors)
    permuted = [
        tensor.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) if tensor.dim() == 4 else tensor
        for tensor in tensors
    ]
    views = [strided(tensor) if tensor.dim() else tensor for tensor in tensors]
    sliced = [channel_slice(tensors[0]), *tensors[1:]]
    mixed = [tensors[0].contiguous(memory_format=torch.channels_last), *tensors[1:]]
    for variant in (permuted, views, sliced, mixed):
        with use(backend):
            found = results(case.fused, variant)
        for our, their in zip(found, expected, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_an_expanded_gradient(backend: str) -> None:
    """As `y.sum().backward()` makes it."""
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    with use(backend):
        (found,) = torch.autograd.grad(fused_ops.group_norm_act(x, 2, activation="silu").sum(), x)
    (expected,) = torch.autograd.grad(torch.nn.functional.silu(torch.nn.functional.group_norm(x, 2)).sum(), x)
    torch.testing.assert_close(found, expected)


def test_only_what_is_needed_gets_a_gradient(backend: str) -> None:
    for case in CASES:
        tensors = case.tensors((2, 4, 6, 5))
        exact = results(case.eager, [tensor.double() for tensor in tensors])[1:]
        for index, tensor in enumerate(tensors):
            one = [t.detach() for t in tensors]
            leaf = one[index] = tensor.detach().requires_grad_()
            with use(backend):
                y = case.fused(*one)
                generator = torch.Generator().manual_seed(1)
                (grad,) = torch.autograd.grad(y, leaf, torch.randn(y.shape, generator=generator))
            torch.testing.assert_close(grad, exact[index].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend_name", ["auto"])
def test_results_do_not_depend_on_threads_or_calls(backend_name: str) -> None:
    for case in CASES:
        for channels_last in (False, True):
            tensors = case.tensors((3, 5, 64, 60), channels_last)
            first, second = (results(case.fused, tensors) for _ in range(2))
            assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
            torch.set_num_threads(1)
            for our, their in zip(results(case.fused, tensors), first, strict=True):
                torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-4)
            torch.set_num_threads(2)


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(backend: str) -> None:
    with use(backend):
        for case in CASES:
            for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
                for result in results(case.fused, case.tensors(shape)):
                    assert result.numel() == 0 or not result.any()


def test_not_a_number_stays_in_its_statistic(backend: str) -> None:
    x = torch.randn(2, 4, 5, 5)
    x[1, 2, 3, 3] = float("nan")
    with use(backend):
        for activation in ACTIVATIONS:
            y = fused_ops.instance_norm_act(x, activation=activation)
            assert y[1, 2].isnan().all() and y.isnan().sum() == 25


@pytest.mark.parametrize("channels_last", [False, True])
def test_through_given_statistics_an_infinite_value_has_a_gradient(channels_last: bool, backend: str) -> None:
    """That of any other value: it moves no statistic."""
    x = torch.randn(2, 4, 5, 5)
    x[1, 2, 3, 3] = float("inf")
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    x.requires_grad_()
    with use(backend):
        y = fused_ops.batch_norm_act(
            x, torch.zeros(4), torch.ones(4), torch.full((4,), 3.0), activation="relu"
        )
        (found,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(found, 3.0 * (x > 0), rtol=1e-4, atol=0)


# --- what it keeps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_kept_for_the_backward(case: Case, backend: str) -> None:
    """x alone; with a residual also y, where the derivative follows from it, else the residual."""
    tensors = [tensor.requires_grad_() for tensor in case.tensors((4, 16, 20, 20))]
    small = [tensor for tensor in tensors if tensor.dim() < 3 or tensor.size(1) == 1]
    with use(backend):
        kept = saved_bytes(lambda: case.fused(*tensors), ignore=small)
    large = 2 if case.residual and case.activation != "identity" else 1
    statistics = 2 * 4 * (16 if case.norm in ("batch", "running") else 4 * 16)
    assert kept <= large * tensors[0].numel() * 4 + statistics


# --- manners within torch -----------------------------------------------------------------------------------


def test_opcheck(backend: str) -> None:
    x, gamma, beta, residual = (torch.randn(s) for s in ((2, 4, 3, 5), (4,), (4,), (2, 4, 3, 5)))
    noise, scale = torch.randn(2, 1, 3, 5), torch.tensor(0.5)
    last = x.contiguous(memory_format=torch.channels_last)
    none = (None,) * 5
    rest = (1e-5, ACTIVATIONS["relu"].index, 0.0, False)
    leaf = [tensor.clone().requires_grad_() for tensor in (x, gamma, beta, residual, noise, scale)]
    with use(backend):
        torch.library.opcheck(OP, (*leaf[:4], None, None, None, None, 0, *rest))
        torch.library.opcheck(OP, (leaf[0], None, None, None, *leaf[4:], None, None, 2, *rest))
        torch.library.opcheck(OP, (last, gamma, beta, *none[:3], torch.zeros(4), torch.ones(4), 0, *rest))
        torch.library.opcheck(OP, (x.bfloat16(), gamma, beta, *none, 4, *rest))
        y, mean, var = OP(x, gamma, beta, residual, *none[:4], 0, *rest)
        torch.library.opcheck(
            BACKWARD_OP,
            (
                last,
                last,
                y,
                gamma,
                beta,
                *none[:3],
                mean,
                var,
                False,
                0,
                *rest,
                True,
                True,
                True,
                False,
                False,
            ),
        )
        torch.library.opcheck(
            BACKWARD_OP,
            (
                x,
                x,
                None,
                gamma,
                None,
                None,
                noise,
                scale,
                mean,
                var,
                True,
                0,
                *rest,
                False,
                True,
                False,
                True,
                True,
            ),
        )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", CASES[1:12:2], ids=str)
def test_compile_without_graph_breaks(case: Case, dynamic: bool, backend: str) -> None:
    tensors = case.tensors((2, 4, 5, 3), channels_last=True)
    torch._dynamo.reset()
    compiled = torch.compile(case.fused, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    with use(backend):
        for our, their in zip(results(compiled, tensors), results(case.fused, tensors), strict=True):
            torch.testing.assert_close(our, their)
            assert our.stride() == their.stride()


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_compiled_calls_take_subclasses(norm: str) -> None:
    """As torch's norms do; Dynamo refuses to look up some of their attributes."""
    case = Case(norm, "relu", residual=True)
    x, *others = case.tensors((2, 4, 5, 3))
    compiled = torch.compile(case.fused, fullgraph=True, backend="eager")
    torch._dynamo.reset()
    found = compiled(x.as_subclass(Subclass), *others)
    assert isinstance(found, Subclass)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), case.fused(x, *others))


@pytest.mark.inductor
def test_compile_with_inductor(backend: str) -> None:
    case = Case("batch", "relu", residual=True)
    tensors = case.tensors((2, 4, 5, 3), channels_last=True)
    torch._dynamo.reset()
    with use(backend):
        found = results(torch.compile(case.fused, fullgraph=True), tensors)
        for our, their in zip(found, results(case.fused, tensors), strict=True):
            torch.testing.assert_close(our, their)


class Chain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = fused_ops.FusedBatchNormAct2d(4, activation="relu")
        self.second = fused_ops.FusedGroupNormAct(2, 4, activation="silu")
        self.third = fused_ops.FusedInstanceNormAct2d(4, activation="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x), x), x)


def test_export_and_decomposition_to_plain_pytorch() -> None:
    model, x = Chain().eval(), torch.randn(2, 4, 5, 6)
    exported = torch.export.export(model, (x,))
    targets = [node.target for node in exported.graph.nodes]
    assert targets.count(OP) == 3
    torch.testing.assert_close(exported.module()(x), model(x))
    plain = exported.run_decompositions({OP: reference.norm_act})
    assert all("fused_ops" not in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(x), model(x))


@pytest.mark.parametrize("case", [CASES[1], CASES[6], CASES[11]], ids=str)
def test_vmap_over_the_backward(case: Case, backend: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in case.tensors((2, 4, 3, 3))]
    with use(backend):
        y = case.fused(*tensors)
        grads = torch.randn(3, *y.shape)
        batched = torch.autograd.grad(y, tensors, grads, is_grads_batched=True, retain_graph=True)
        for index, grad in enumerate(grads):
            single = torch.autograd.grad(y, tensors, grad, retain_graph=True)
            for all_of_them, one in zip(batched, single, strict=True):
                torch.testing.assert_close(all_of_them[index], one)


def test_vmap_over_the_forward(backend: str) -> None:
    x = torch.randn(3, 2, 4, 5, 5)
    with use(backend):
        batched = torch.func.vmap(lambda one: fused_ops.group_norm_act(one, 2, activation="silu"))(x)
        for index, one in enumerate(x):
            torch.testing.assert_close(batched[index], fused_ops.group_norm_act(one, 2, activation="silu"))
        nothing = torch.func.vmap(lambda one: fused_ops.group_norm_act(one, 2), in_dims=1)(x[:, :0])
        assert nothing.shape == (0, 3, 4, 5, 5)


def test_checkpoint_gives_the_same_gradients(backend: str) -> None:
    for case in (CASES[1], CASES[8]):
        tensors = case.tensors((2, 4, 5, 5))

        def checkpointed(*leaves: Tensor, case: Case = case) -> Tensor:
            return torch.utils.checkpoint.checkpoint(case.fused, *leaves, use_reentrant=False)  # type: ignore[no-any-return]

        with use(backend):
            for our, their in zip(results(checkpointed, tensors), results(case.fused, tensors), strict=True):
                torch.testing.assert_close(our, their, rtol=0, atol=0)


def test_autocast_keeps_the_dtype_of_x_and_casts_what_does_not_fit(backend: str) -> None:
    x, residual = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5, requires_grad=True)
    weight = torch.randn(4, requires_grad=True)
    with use(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        y = fused_ops.batch_norm_act(x.bfloat16(), None, None, weight, None, True, residual=residual)
        assert y.dtype == torch.bfloat16
        gamma, beta = torch.randn(2, 2, 4).bfloat16()
        assert fused_ops.adain(x, gamma, beta).dtype == torch.float32
        noise, scale = torch.randn(2, 1, 5, 5), torch.tensor(0.5).double()
        assert fused_ops.adain(x, gamma, beta, noise, scale).dtype == torch.float32
    grads = torch.autograd.grad(y.float().sum(), (weight, residual))
    assert [grad.dtype for grad in grads] == [torch.float32, torch.float32]


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("which", [0, 1])
def test_given_statistics_get_no_gradient_and_say_so(which: int, pool: int, backend: str) -> None:
    x, given = torch.randn(2, 4, 5, 5, requires_grad=True), [torch.zeros(4), torch.ones(4)]
    given[which].requires_grad_()
    with use(backend), pytest.raises(RuntimeError, match="given mean and var are constants"):
        fused_ops.batch_norm_act(x, *given, pool=pool)
    _, mean_used, var_used = OP(x, *(None,) * 7, 0, 1e-5, 0, 0.0, False)
    assert not mean_used.requires_grad and not var_used.requires_grad


def test_float16_is_served_by_the_reference() -> None:
    x = torch.randn(2, 4, 5, 5).half()
    decision = fused_ops.explain(fused_ops.group_norm_act, x, 2)[0]
    assert decision.backend == "reference"
    assert decision.reasons["cpu"].startswith(("it has no kernel for torch.float16", "the native CPU"))


def test_modules_can_be_copied() -> None:
    model, x = Chain(), torch.randn(2, 4, 5, 6)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin(x), model(x))


def check_operands_are_checked(library: Any) -> None:
    """Called without the functional twin: sizes that would be read beyond their end."""
    x, c, rest = torch.randn(2, 8, 5, 6), torch.ones(8), (0, 1e-5, ACTIVATIONS["relu"].index, 0.0)
    short, none = torch.ones(2), (None,) * 5
    need = (False, True, True, False, False, False)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("mean", lambda: library.norm_act(x, *none, short, c, *rest)),
        ("var", lambda: library.norm_act(x, *none, c, short, *rest)),
        ("gamma", lambda: library.norm_act(x, short, *none[:4], c, c, *rest)),
        ("residual", lambda: library.norm_act(x, *none[:2], x[:1], *none[:2], c, c, *rest)),
        ("mean", lambda: library.norm_act_pool(x, *none[:3], short, c, *rest, False)),
        ("mean", lambda: library.norm_act_backward(x, x, *none, None, short, c, True, *rest, *need)),
        ("var", lambda: library.norm_act_backward(x, x, *none, None, c, short, True, *rest, *need)),
        ("var", lambda: library.norm_act_backward(x, x, *none, None, c, short, False, *rest, *need)),
        ("grad", lambda: library.norm_act_backward(x[:1], x, *none, None, c, c, True, *rest, *need)),
        ("y", lambda: library.norm_act_backward(x, x, x[:1], *none, c, c, True, *rest, *need)),
    ]
    for name, call in calls:
        with pytest.raises(RuntimeError, match=rf"norm_act.*: ({name}|gamma and beta) must "):
            call()
    with pytest.raises(RuntimeError, match="groups must divide the channels"):
        library.norm_act(x, *none, None, None, 3, 1e-5, 0, 0.0)
    y, winner, tanh = torch.randn(2, 8, 2, 3), torch.zeros(2, 8, 2, 3).byte(), ACTIVATIONS["tanh"].index
    for bad_y, bad_winner, height, activation, reason in (
        (y[:1], winner, 5, tanh, "y, of grad's dtype and shape"),
        (None, winner, 5, tanh, "y, of grad's dtype and shape"),
        (y, winner.int(), 5, tanh, "winner must be uint8"),
        (y, winner[:1], 5, tanh, "grad and winner must be of half the height and width"),
        (y, winner, 6, tanh, "grad and winner must be of half the height and width"),
        (y, winner, 5, len(ACTIVATIONS), "unknown activation"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            library.norm_act_pool_backward(y, bad_y, bad_winner, height, 6, activation, 0.0)


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "not loaded")
def test_the_library_checks_its_operands() -> None:
    library = torch.ops.fused_ops_cpu
    check_operands_are_checked(library)
    x, c, none = torch.randn(2, 8, 5, 6), torch.ones(8), (None,) * 5
    with pytest.raises(RuntimeError, match="mean and var must both be given"):
        library.norm_act(x, *none, c, None, 0, 1e-5, 0, 0.0)
    with pytest.raises(RuntimeError, match="gamma must be of x's dtype or of its statistics'"):
        library.norm_act(x, c.double(), *none, None, 0, 1e-5, 0, 0.0)
