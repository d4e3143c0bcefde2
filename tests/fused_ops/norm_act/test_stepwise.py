"""torch's own steps for small calls: when they are taken, and that they compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from fused_ops import (
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    batch_norm_act,
    explain,
    group_norm_act,
    instance_norm_act,
    native,
    use,
)
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act import stepwise
from fused_ops.norm_act.after import After
from tests.numerics import saved_bytes

needs_native = pytest.mark.skipif(
    not native.cpu_library().loaded, reason=native.cpu_library().reason or "no native library"
)
MODULES = {
    "batch": lambda: FusedBatchNormAct2d(8, activation="leaky_relu", negative_slope=0.2),
    "instance": lambda: FusedInstanceNormAct2d(8, affine=True, track_running_stats=True, activation="elu"),
    "group": lambda: FusedGroupNormAct(2, 8, activation="silu"),
}
FORMATS = (torch.contiguous_format, torch.channels_last)
AFTER = After(None, 2, 0.2, inplace=False, pool=1)
SMALL, LARGE = torch.randn(2, 8, 9, 9), torch.randn(8, 8, 64, 64)


def outcome(module: nn.Module, x: Tensor, residual: Tensor | None) -> list[Tensor]:
    """Output, gradients and running statistics after one training step."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x, residual)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters()), *module.buffers()]  # type: ignore[list-item]


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_the_same_as_the_reference(name: str, training: bool, with_residual: bool) -> None:
    residual = torch.randn_like(SMALL) if with_residual else None
    modules = [MODULES[name]().train(training) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    assert explain(modules[0], SMALL)[0].backend == "reference"
    ours = outcome(modules[0], SMALL, residual)
    with use("reference"):
        reference = outcome(modules[1], SMALL, residual)
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODULES)
def test_the_memory_format_stays(name: str, dtype: torch.dtype) -> None:
    module = MODULES[name]().to(dtype)
    channels_last = SMALL.to(dtype).contiguous(memory_format=torch.channels_last)
    sliced = torch.randn(2, 12, 9, 9).to(dtype).contiguous(memory_format=torch.channels_last)[:, :8]
    for x, layout in (
        (SMALL.to(dtype), torch.contiguous_format),
        (channels_last, torch.channels_last),
        (sliced, torch.channels_last),
    ):
        assert explain(module, x)[0].backend == "reference"
        for residual in (None, SMALL.to(dtype)):
            assert module(x, residual).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("of_gradient", FORMATS)
@pytest.mark.parametrize("of_x", FORMATS)
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", MODULES)
def test_gradients_in_either_memory_format(
    name: str, images: int, of_x: torch.memory_format, of_gradient: torch.memory_format
) -> None:
    """torch 2.13's own instance norm of one image makes a wrong gradient of one in channels_last."""
    module = MODULES[name]()
    module.activation, module.negative_slope = "identity", None
    x = SMALL[:images].contiguous(memory_format=of_x).requires_grad_()
    gradient = torch.randn(x.shape).contiguous(memory_format=of_gradient)
    assert explain(module, x)[0].backend == "reference"
    (ours,) = torch.autograd.grad(module(x), x, gradient)
    with use("reference"):
        (expected,) = torch.autograd.grad(module.double()(x.double()), x, gradient.double())
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def in_order(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same tensor, whose dimensions lie in memory in this order."""
    return x.permute(order).contiguous().permute([order.index(dim) for dim in range(x.dim())])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 8, 5, 1), (2, 8, 1, 5), (1, 8, 5, 1), (1, 8, 3, 3), (2, 1, 3, 3)])
@pytest.mark.parametrize("norm", [batch_norm_act, instance_norm_act])
def test_gradients_whose_strides_tell_no_memory_format(
    norm: Callable[..., Tensor], shape: tuple[int, ...], activation: str
) -> None:
    """As of one image's tokens, ``norm(x).flatten(2).transpose(1, 2)``: where a dimension has one element,
    torch 2.13's own batch norm takes channels that lie side by side for planes."""
    x, gradient = torch.randn(2, *shape, dtype=torch.float64)
    planes, last = (0, 1, 2, 3), (0, 2, 3, 1)

    def found(order_of_x: tuple[int, ...], order_of_gradient: tuple[int, ...]) -> Tensor:
        leaf = in_order(x, order_of_x).requires_grad_()
        y = norm(leaf, None, None, None, None, True, activation=activation)
        return torch.autograd.grad(y, leaf, in_order(gradient, order_of_gradient))[0]

    with use("reference"):
        expected = found(planes, planes)
    for order in permutations(planes):
        for orders in ((planes, order), (order, planes), (last, order), (order, order)):
            torch.testing.assert_close(found(*orders), expected)


@pytest.mark.parametrize("later", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", ["batch", "instance"])
def test_a_later_training_step_changes_no_gradient(
    name: str, images: int, training: bool, later: Tensor
) -> None:
    """Of crops of several sizes, or of evaluation between the steps of training."""
    norm, x = MODULES[name]().train(training), SMALL[:images].clone().requires_grad_()
    _, expected, *_ = outcome(copy.deepcopy(norm), x.detach(), None)
    y = norm(x)
    norm.train()(later * 3 + 1)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    torch.testing.assert_close(x.grad, expected)


@needs_native
@pytest.mark.parametrize("name", MODULES)
def test_what_is_large_enough_goes_to_the_kernels(name: str) -> None:
    assert explain(MODULES[name](), LARGE)[0].backend == "cpu"
    with use("cpu"):
        assert explain(MODULES[name](), SMALL)[0].backend == "cpu"


def test_a_bias_without_a_weight_has_a_gradient() -> None:
    """Which torch 2.13's own group norm fails to make."""
    x, bias = SMALL.clone().requires_grad_(), torch.randn(8, requires_grad=True)
    found = torch.autograd.grad(group_norm_act(x, 2, None, bias).square().sum(), (x, bias))
    with use("reference"):
        expected = torch.autograd.grad(group_norm_act(x, 2, None, bias).square().sum(), (x, bias))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_small_tensors_of_any_strides(name: str, training: bool) -> None:
    """Of single pixels torch 2.13's own batch norm reads a slice, or one value for all, as if dense."""
    x, gradient = torch.randn(2, 5, 4, dtype=torch.float64)
    values = torch.rand(4, 2, dtype=torch.float64) + 0.5

    def found(**other: Tensor) -> tuple[Tensor, ...]:
        small = {key: values[:, 1].clone() for key in ("weight", "bias", "running_mean", "running_var")}
        small |= other
        weight = small["weight"].requires_grad_()
        y = batch_norm_act(x.requires_grad_(), training=training, **small)
        return y, *torch.autograd.grad(y, (x, weight), gradient), *small.values()

    moves = training and name.startswith("running")
    for strided in (values[:, 0], *[values[:1, 0].expand(4)] * (not moves)):
        dense = strided.clone(memory_format=torch.contiguous_format)
        torch.testing.assert_close(found(**{name: strided.detach()}), found(**{name: dense}))


@needs_native
@pytest.mark.parametrize("of_gradient", FORMATS)
@pytest.mark.parametrize("of_x", FORMATS)
def test_gradients_of_one_channel(of_x: torch.memory_format, of_gradient: torch.memory_format) -> None:
    """Of one image torch's instance norm takes the whole, which has one order in both memory formats."""
    x, gradient = (torch.empty((1, 1, 9, 9), memory_format=of).normal_() for of in (of_x, of_gradient))
    found = []
    for like in (x, x.double()):
        like.requires_grad_()
        module = FusedInstanceNormAct2d(1)
        with use("auto" if like is x else "reference"):
            found += torch.autograd.grad(module(like), like, gradient.to(like.dtype))
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-4, atol=1e-5)


@needs_native
def test_the_reason_names_the_size() -> None:
    reasons = explain(MODULES["group"](), SMALL)[0].reasons
    assert reasons["cpu"] == "torch's own kernels are quicker for 1296 elements"
    planes = torch.randn(256, 64, 5, 5)
    assert (
        explain(FusedGroupNormAct(8, 64), planes)[0].reasons["cpu"]
        == "torch's own kernels are quicker for planes of 25 elements"
    )
    last = torch.randn(4, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    assert explain(MODULES["instance"](), last)[0].backend == "cpu"
    wide = torch.randn(2, 256, 16, 16).contiguous(memory_format=torch.channels_last)
    # Torch's own kernels take longer for groups of one channel in channels_last alone.
    alone = torch.randn(4, 8, 64, 64)
    for x, backend in ((alone, "reference"), (alone.to(memory_format=torch.channels_last), "cpu")):
        assert explain(FusedGroupNormAct(8, 8), x)[0].backend == backend
    for x, backend in ((wide, "cpu"), (wide.bfloat16(), "reference"), (wide[:, :192].bfloat16(), "cpu")):
        module = FusedGroupNormAct(32, x.size(1)).to(x.dtype)
        assert explain(module, x)[0].backend == backend


def test_without_a_native_library_torch_serves_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "cpu_library", lambda: native.Status(False, "it was never built", build={}))
    reasons = explain(MODULES["batch"](), LARGE)[0].reasons
    assert reasons["cpu"] == "it was never built"
    assert stepwise.is_better(LARGE, "batch", AFTER)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_torch_serves_a_dtype_without_kernels_in_all_sizes(name: str, with_residual: bool) -> None:
    x = torch.randn(8, 8, 136, 136).half()
    residual, module = x.flip(0) if with_residual else None, MODULES[name]().half()
    reasons = explain(module, x)[0].reasons
    assert reasons["cpu"] in ("it has no kernel for torch.float16", native.cpu_library().reason)
    for more in ({"residual": residual}, {"pool": 2}):
        assert stepwise.is_better(x, "batch", AFTER._replace(**more))
    single = copy.deepcopy(module).float()
    found = outcome(module, x, residual)
    expected = outcome(single, x.float(), None if residual is None else residual.float())
    del found[1], expected[1]  # the gradient of x: at kinks of the activation rounding decides
    for one, other in zip(found, expected, strict=True):
        largest = other.abs().max().item()
        torch.testing.assert_close(one.to(other.dtype), other, rtol=0.02, atol=0.02 * largest)


def test_mixed_dtypes_and_empty_batches_go_to_the_op() -> None:
    half = SMALL.bfloat16()
    weighted = MODULES["batch"]()  # with weights in float32
    assert explain(weighted, half)[0].backend == explain(weighted, LARGE.bfloat16())[0].backend
    assert not stepwise.is_better(half, "batch", AFTER._replace(residual=SMALL))
    assert not stepwise.is_better(SMALL[:0], "batch", AFTER)


@needs_native
def test_where_more_follows_or_memory_counts_fewer_calls_are_small() -> None:
    x = torch.randn(8, 16, 30, 30)
    assert stepwise.is_better(x, "batch", AFTER)
    for more in ({"residual": x}, {"pool": 2}, {"inplace": True}):
        assert not stepwise.is_better(x, "batch", AFTER._replace(**more))
    few = x[:, :8].contiguous(memory_format=torch.channels_last)
    assert not stepwise.is_better(few, "batch", AFTER)


@needs_native
@pytest.mark.parametrize("name", MODULES)
def test_no_more_is_kept_than_by_torch(name: str) -> None:
    module, x = MODULES[name](), SMALL.clone().requires_grad_()
    stock = nn.Sequential(nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True))
    if name == "batch":
        ours, theirs = (saved_bytes(lambda m=m: m(x), ignore=tuple(m.parameters())) for m in (module, stock))
        assert ours <= theirs
    y = module(x)
    assert not y._is_view() or name == "instance"


@needs_native
@pytest.mark.parametrize(
    ("name", "differentiated", "overwrites"),
    [("batch", True, False), ("batch", False, True), ("instance", True, False), ("instance", False, True)],
)
def test_the_activation_overwrites_what_the_norm_made(
    name: str, differentiated: bool, overwrites: bool
) -> None:
    # Torch's own leaky ReLU and ELU let their outputs be written into before the backward.
    with torch.set_grad_enabled(differentiated), torch.profiler.profile() as found:
        MODULES[name]()(SMALL)
    operation = {"batch": "aten::leaky_relu_", "instance": "aten::elu_"}[name]
    assert (operation in {event.key for event in found.key_averages()}) is overwrites
