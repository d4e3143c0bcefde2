"""What torch.compile sees of the ops: Triton's launches, plain PyTorch, or one opaque node."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_ops
from fused_ops import (
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    FusedSelectiveShare,
    backends,
    explain,
    native,
    triton_support,
    use,
)
from fused_ops.norm_act.op import norm_act_backward_op
from fused_ops.selective_share.op import selective_share_backward_op, selective_share_op
from fused_ops.tuning import inductor, small_calls
from tests.fused_ops.compiling import (
    H100,
    as_on_h100,
    code_for_cuda,
    compile_kernels,
    graph_of,
    kernels_in,
    leaf,
    ops_in,
)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
needs_cpu_library = pytest.mark.skipif(not native.cpu_library().loaded, reason="it is about the CPU library")


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with as_on_h100(monkeypatch):
        yield


# --- Triton's launches --------------------------------------------------------------------------------------

MODULES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # a module and the number of its inputs
    "batch, residual": (lambda: FusedBatchNormAct2d(64, activation="leaky_relu"), 2),
    "batch, pooled": (lambda: FusedBatchNormAct2d(64, activation="relu", pool=2), 1),
    "instance": (lambda: FusedInstanceNormAct2d(64, activation="tanh", affine=True), 1),
    "group": (lambda: FusedGroupNormAct(4, 64, activation="silu"), 1),
    "share": (lambda: FusedSelectiveShare(64), 2),
    "share, recompute": (lambda: FusedSelectiveShare(64, recompute=True), 2),
}


def launched_eagerly(module: nn.Module, inputs: list[Tensor]) -> list[str]:
    """The kernels of a training step in eager mode."""
    with triton_support.rehearse(H100) as launches, use("triton"):
        outputs = module.to("meta")(*(tensor.detach().to("meta").requires_grad_() for tensor in inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
    return [launch.kernel.__name__ for launch in launches]


@needs_triton
@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize("name", MODULES)
def test_the_compiler_sees_the_kernels_that_eager_mode_launches(name: str) -> None:
    make, count = MODULES[name]
    inputs = [leaf(4, 64, 24, 24) for _ in range(count)]
    with use("triton"):
        graph = graph_of(make(), *inputs)
    assert not ops_in(graph)
    assert kernels_in(graph) == launched_eagerly(make(), inputs)


@needs_triton
@pytest.mark.usefixtures("h100")
def test_sizes_that_are_not_known_leave_one_node() -> None:
    with use("triton"):
        graph = graph_of(FusedGroupNormAct(4, 64, affine=False), torch.randn(4, 64, 8, 8), dynamic=True)
    assert not kernels_in(graph) and ops_in(graph) == {"norm_act.traced"}


def instance(x: Tensor) -> Tensor:
    return fused_ops.instance_norm_act(torch.sigmoid(x), activation="leaky_relu", pool=2) * 2


def norm_backward(grad: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    relu = 1
    needs = (True, True, False, False, False)
    return norm_act_backward_op(
        grad, x, None, gamma, gamma, None, None, None, mean, var, False, 0, 1e-5, relu, 0.0, False, *needs
    )[:3]


def pair(x: Tensor, y: Tensor, *weights: Tensor) -> Any:
    outputs = fused_ops.selective_share(x, y, weights[:4], weights[4:], return_gates=False)
    return *outputs, *selective_share_backward_op(x, y, None, x, y, None, *weights, False)


def mixed_pair(x: Tensor, y: Tensor, *weights: Tensor) -> Any:
    """As under autocast, which "cuda" has not where there is no card: weights in float32."""
    x, y = x.bfloat16(), y.bfloat16()
    outputs = selective_share_op(x, y, *weights, False, False, False)[:2]
    return *outputs, *selective_share_backward_op(x, y, None, x, y, None, *weights, False)


LARGE, CHANNELS = (8, 64, 64, 64), (64,)
UNIT = [(64, 128, 1, 1), (64, 64, 1, 1), (64, 64, 1, 1), (64, 128, 1, 1)]
WRITTEN: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "pooled norm among neighbours": (instance, [LARGE]),
    "norm, backward, split": (norm_backward, [LARGE, LARGE, CHANNELS, CHANNELS, CHANNELS]),
    "pair, forward and backward": (pair, [LARGE, LARGE, *UNIT, *UNIT]),
    "the same, weights in float32": (mixed_pair, [LARGE, LARGE, *UNIT, *UNIT]),
}


@needs_triton
@pytest.mark.usefixtures("h100")
@pytest.mark.parametrize("name", WRITTEN)
def test_inductor_writes_code_of_the_kernels_that_compiles(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    function, shapes = WRITTEN[name]
    with use("triton"):
        code = code_for_cuda(monkeypatch, function, shapes)
    compiled = compile_kernels(code, tmp_path)
    assert len(compiled) >= 2
    for kernel in compiled.values():
        # Floats of the host come as float64, and must be cast where they enter.
        in_double = re.findall(r"^\s+(?!cvt|ld\.param)\S+\.f64.*", kernel.asm["ptx"], re.MULTILINE)
        assert not [line for line in in_double if ".param" not in line]
        assert kernel.metadata.shared <= H100.shared_bytes


@needs_triton
@pytest.mark.usefixtures("h100")
def test_compiled_weights_are_cast_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    with use("triton"):
        code = code_for_cuda(monkeypatch, *WRITTEN["the same, weights in float32"])
    assert len(re.findall(r"triton_for_\w+\.run", code)) == 1
    assert len(re.findall(r"_to_copy_\w+\.run", code)) == 2  # x and y


# --- plain PyTorch ------------------------------------------------------------------------------------------


def evaluated() -> nn.Module:
    return FusedBatchNormAct2d(16, activation="relu").eval()


@needs_cpu_library
def test_a_norm_of_given_statistics_is_left_to_inductor_and_explain_says_so() -> None:
    x, module = torch.randn(2, 16, 12, 12), evaluated().requires_grad_(False)
    assert not ops_in(graph_of(module, x, x))
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    (decision,) = explain(compiled, x, x)
    assert decision.backend == "reference" and decision.why == inductor.ONE_LOOP
    torch.testing.assert_close(compiled(x, x), module(x, x))
    assert explain(module, x, x)[0].backend == "cpu"  # not compiled


@needs_cpu_library
def test_its_gradients_are_as_in_eager_mode() -> None:
    module, grads = evaluated(), []
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x, residual = leaf(2, 16, 12, 12), leaf(2, 16, 12, 12)
    for run in (module, compiled):
        leaves = [x, residual, module.weight, module.bias]
        grads.append(torch.autograd.grad(run(x, residual).square().sum(), leaves))
    torch.testing.assert_close(*grads)


@needs_cpu_library
def test_what_is_asked_for_is_not_left_to_inductor() -> None:
    x = torch.randn(2, 16, 12, 12)
    with use("cpu"):
        assert ops_in(graph_of(evaluated(), x, x)) == {"norm_act.traced", "norm_act_backward.traced"}


@needs_cpu_library
def test_training_and_pairs_stay_ours() -> None:
    x = torch.randn(2, 16, 24, 24)
    for name, module, inputs in (
        ("norm_act", FusedBatchNormAct2d(16), (x,)),
        ("selective_share", FusedSelectiveShare(16), (x, x)),
    ):
        assert ops_in(graph_of(module, *inputs)) == {f"{name}.traced", f"{name}_backward.traced"}


@needs_cpu_library
def test_small_norms_are_left_to_inductor_as_eager_leaves_them_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def why(x: Tensor, kind: str, alone: bool) -> str:
        return f"{x.numel()} are few, {kind}"

    monkeypatch.setattr(small_calls, "quicker_in_steps", why)
    x = torch.randn(2, 16, 12, 12)
    assert not ops_in(graph_of(FusedBatchNormAct2d(16), x))
    args = (x, None, None, None, None, None, None, None, 16, 1e-5, 0, 0.0, False)
    assert inductor.why_aside("norm_act", args, "cpu") == "4608 are few, instance"


@pytest.mark.parametrize(
    ("given", "groups", "shape", "backend", "aside"),
    [
        (True, 0, (64, 128, 48, 48), "triton", True),
        (True, 0, (64, 128, 48, 48), "cuda", True),
        (False, 0, (64, 128, 48, 48), "triton", False),  # sums: as many passes, and not proven quicker
        (False, 64, (64, 64, 24, 24), "triton", False),  # a row on chip: one pass less
    ],
)
def test_the_cost_model_decides_on_a_card(
    given: bool,
    groups: int,
    shape: tuple[int, ...],
    backend: str,
    aside: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_support, "card_of", lambda device: H100)
    with FakeTensorMode():
        x = torch.empty(shape, dtype=torch.bfloat16, device="cuda:0")
        statistic = torch.empty(shape[1], device="cuda:0") if given else None
        args = (x, None, None, None, None, None, statistic, statistic, groups, 1e-5, 1, 0.0, False)
        reason = inductor.why_aside("norm_act", args, backend)
    assert (reason is not None) == aside
    if reason is not None:
        assert reason.startswith(inductor.ONE_LOOP) and backend in reason


# --- what a compiled function depends on --------------------------------------------------------------------


def test_another_wish_compiles_again() -> None:
    graphs: list[str] = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(module.code)
        return module.forward

    torch._dynamo.reset()
    x, run = torch.randn(2, 4, 5, 5), torch.compile(FusedGroupNormAct(2, 4), backend=keep, fullgraph=True)
    for wish in ("reference", "auto", "reference"):
        with use(wish):
            run(x)
    assert len(graphs) == 2
    # The wish stands in the graph, which torch's caches of compiled code are keyed by.
    assert "'reference " in graphs[0] and "'auto " in graphs[1]


@needs_cpu_library
def test_a_compiled_function_keeps_its_wish_in_the_backward_too(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[str] = []
    run = backends._run
    monkeypatch.setattr(backends, "_run", lambda op, name, *rest: served.append(name) or run(op, name, *rest))
    x = leaf(2, 16, 12, 12)
    with use("cpu"):
        y = torch.compile(FusedGroupNormAct(2, 16), backend="aot_eager", fullgraph=True)(x)
    with use("reference"):
        y.sum().backward()
    assert served == ["cpu", "cpu"]


def test_transforms_and_autocast_know_the_overload() -> None:
    def norm(x: Tensor) -> Tensor:
        return fused_ops.group_norm_act(x, 2, activation="silu")

    x = torch.randn(3, 2, 4, 5, 5)
    run = torch.compile(torch.func.vmap(norm), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(x), torch.stack([norm(each) for each in x]))
    share = FusedSelectiveShare(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(share, backend="aot_eager", fullgraph=True)(x[0], x[1])
        expected = share(x[0], x[1])
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
