"""The modules against their torch.nn twins."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from fused_ops import FusedAdaIN, FusedBatchNormAct2d, FusedGroupNormAct, FusedInstanceNormAct2d, adain, use
from fused_ops.norm_act import convert_sync_batchnorm


def _untracked(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Switched off for good, with running statistics there that evaluation still goes by."""
    norm.track_running_stats = False
    return norm


TWINS = {
    "batch": (
        lambda: nn.Sequential(nn.BatchNorm2d(6), nn.LeakyReLU(0.2)),
        lambda: FusedBatchNormAct2d(6, activation="leaky_relu", negative_slope=0.2),
    ),
    "batch, cumulative average": (
        lambda: nn.Sequential(nn.BatchNorm2d(6, momentum=None), nn.ReLU()),
        lambda: FusedBatchNormAct2d(6, momentum=None, activation="relu"),
    ),
    "batch, nothing tracked": (
        lambda: nn.Sequential(nn.BatchNorm2d(6, affine=False, track_running_stats=False), nn.Tanh()),
        lambda: FusedBatchNormAct2d(6, affine=False, track_running_stats=False, activation="tanh"),
    ),
    "batch, no longer tracked": (
        lambda: nn.Sequential(_untracked(nn.BatchNorm2d(6, affine=False)), nn.Tanh()),
        lambda: _untracked(FusedBatchNormAct2d(6, affine=False, activation="tanh")),
    ),
    "instance": (
        lambda: nn.Sequential(nn.InstanceNorm2d(6), nn.GELU()),
        lambda: FusedInstanceNormAct2d(6, activation="gelu"),
    ),
    "instance, tracked": (
        lambda: nn.Sequential(nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.ELU()),
        lambda: FusedInstanceNormAct2d(6, affine=True, track_running_stats=True, activation="elu"),
    ),
    "instance, affine": (
        lambda: nn.Sequential(nn.InstanceNorm2d(6, affine=True), nn.ELU()),
        lambda: FusedInstanceNormAct2d(6, affine=True, activation="elu"),
    ),
    "group": (
        lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.SiLU()),
        lambda: FusedGroupNormAct(3, 6, activation="silu"),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_stock_checkpoint_trains_on_alike(name: str, backend: str) -> None:
    """Several steps, with all parameters, running statistics and counters, then evaluation."""
    stock, ours = (make().double() for make in TWINS[name])
    norm = stock[0]
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(norm.state_dict())
    assert isinstance(ours, type(norm))
    optimizers = [
        torch.optim.SGD([*m.parameters(), torch.zeros(1, requires_grad=True)], 0.1) for m in (stock, ours)
    ]
    with use(backend):
        for _ in range(3):
            x = torch.randn(3, 6, 5, 4, dtype=torch.float64) * 3 + 1
            outputs = [module(x) for module in (stock, ours)]
            torch.testing.assert_close(*outputs)
            for output, optimizer in zip(outputs, optimizers, strict=True):
                if output.requires_grad:
                    output.square().sum().backward()
                    optimizer.step()
        torch.testing.assert_close(ours.state_dict(), norm.state_dict())
        torch.testing.assert_close(ours.eval()(x), stock.eval()(x))
    norm.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    ("layer", "channels"),
    [(FusedBatchNormAct2d, (6,)), (FusedInstanceNormAct2d, (6,)), (FusedGroupNormAct, (3, 6))],
)
def test_it_is_made_where_and_as_its_twin_is(layer: type[nn.Module], channels: tuple[int, ...]) -> None:
    twin = next(kind for kind in layer.__mro__ if kind.__module__.startswith("torch.nn."))
    by_position = [p for p in inspect.signature(twin).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    names = [p.name for p in by_position]
    assert list(inspect.signature(layer).parameters)[: len(names)] == names
    settings = {"affine": True, "device": "meta", "dtype": torch.float64}
    given = [settings.get(p.name, p.default) for p in by_position[len(channels) :]]
    for made in (layer(*channels, *given), layer(*channels, **settings)):
        assert made.weight.device.type == "meta" and made.weight.dtype == torch.float64
    made = nn.utils.skip_init(layer, *channels, affine=True, activation="relu")  # looks for `device`
    assert made.weight.device.type == "cpu" and made.activation == "relu"


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("name", ["batch", "instance, tracked"])
def test_recomputing_moves_the_statistics_as_torch_s_norms_do(
    name: str, selective: bool, backend: str
) -> None:
    """A second time, although a checkpoint stops what it recomputes where nothing more is to be kept."""

    def prefer_recomputing(*_: Any, **__: Any) -> CheckpointPolicy:
        return CheckpointPolicy.PREFER_RECOMPUTE

    kind = {"context_fn": functools.partial(create_selective_checkpoint_contexts, prefer_recomputing)}
    stock, ours = (make().double() for make in TWINS[name])
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    with use(backend):
        for module in (stock, ours):
            y = checkpoint(module, x, use_reentrant=False, **(kind if selective else {}))
            y.square().sum().backward()
    torch.testing.assert_close(ours.state_dict(), stock[0].state_dict())
    expected = 1 - 0.9**2
    torch.testing.assert_close(ours.running_mean, expected * x.detach().mean((0, 2, 3)))


@pytest.mark.parametrize("name", ["batch", "instance", "group"])
def test_the_residual_is_added_before_the_activation(name: str, backend: str) -> None:
    stock, ours = (make() for make in TWINS[name])
    x, residual = torch.randn(2, 2, 6, 5, 4)
    with use(backend):
        torch.testing.assert_close(ours(x, residual), stock[1](stock[0](x) + residual))


def test_instance_norm_of_a_single_sample_without_batch_dimension() -> None:
    x, residual = torch.randn(2, 6, 5, 4)
    module = FusedInstanceNormAct2d(6, activation="relu")
    calls: list[object] = []
    module.register_forward_hook(lambda *call: calls.append(call))
    torch.testing.assert_close(module(x, residual), torch.relu(nn.InstanceNorm2d(6)(x) + residual))
    assert len(calls) == 1


@pytest.mark.parametrize("pool", [1, 2])
def test_evaluation_can_be_differentiated_after_the_next_training_step(pool: int, backend: str) -> None:
    """Through the running statistics that evaluation found, which training moves in place."""
    norm = FusedBatchNormAct2d(6, activation="relu", pool=pool)
    x = torch.randn(3, 6, 8, 8, requires_grad=True)
    with use(backend):
        (expected,) = torch.autograd.grad(norm.eval()(x).square().sum(), x)
        evaluated = norm(x).square().sum()
        norm.train()(x)
        torch.testing.assert_close(torch.autograd.grad(evaluated, x)[0], expected)


def test_a_step_changes_no_gradient_of_the_same_norm_in_torch_s_steps(backend: str) -> None:
    """One that :func:`fuse` has fused in one place and that is called by itself in another."""
    norm = FusedBatchNormAct2d(6)
    x = torch.randn(3, 6, 8, 8, requires_grad=True)
    w = torch.randn_like(x)
    (expected,) = torch.autograd.grad((nn.BatchNorm2d(6)(x) * w).sum(), x)
    y = nn.BatchNorm2d.forward(norm, x)
    with use(backend):
        norm(x + 1)
    torch.testing.assert_close(torch.autograd.grad((y * w).sum(), x)[0], expected)


def test_statistics_made_in_inference_mode_are_moved(backend: str) -> None:
    with torch.inference_mode(), use(backend):
        norm, stock = FusedBatchNormAct2d(6), nn.BatchNorm2d(6)
        x = torch.randn(3, 6, 8, 8)
        torch.testing.assert_close(norm(x), stock(x))
    torch.testing.assert_close(norm.state_dict(), stock.state_dict())


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (2, 6, 0, 4)])
@pytest.mark.parametrize("name", ["batch", "instance, tracked"])
def test_an_empty_batch_moves_no_running_statistics(name: str, shape: tuple[int, ...], backend: str) -> None:
    norm = TWINS[name][1]()
    with use(backend):
        norm(torch.randn(2, 6, 4, 4))
        before = copy.deepcopy(norm.state_dict())
        norm(torch.empty(shape, requires_grad=True)).sum().backward()
    for buffer in ("running_mean", "running_var"):
        assert torch.equal(norm.state_dict()[buffer], before[buffer])


def test_wrong_channels_and_dimensions() -> None:
    x = torch.randn(2, 4, 3, 3)
    with pytest.raises(ValueError, match=r"num_features = 6 channels, got \[2, 4, 3, 3\]"):
        FusedInstanceNormAct2d(6)(x)
    with pytest.raises(ValueError, match=r"weight must be \[C\] = \[4\], got shape \[6\]"):
        FusedBatchNormAct2d(6)(x)
    with pytest.raises(ValueError, match="expected 4D input"):
        FusedBatchNormAct2d(4)(x[0])
    with pytest.raises(ValueError, match="known activations are"):
        FusedGroupNormAct(2, 4, activation="mish")


def test_what_is_no_dense_tensor_is_named() -> None:
    x, nested = torch.randn(2, 4, 3, 3), torch.nested.nested_tensor([torch.randn(4, 3, 3)])
    for layer in (FusedBatchNormAct2d(4), FusedInstanceNormAct2d(4), FusedGroupNormAct(2, 4)):
        for value, kind in ((None, "NoneType"), (nested, "a nested tensor")):
            with pytest.raises(TypeError, match=f"x must be .*, got {kind}"):
                layer(value)
    for value in (3, nested):
        with pytest.raises(TypeError, match="residual must be"):
            FusedInstanceNormAct2d(4)(x[0], residual=value)
        with pytest.raises(TypeError, match="condition must be"):
            FusedAdaIN(4, 3)(x, value)


def test_what_a_module_prints() -> None:
    stock = nn.GroupNorm(2, 4).extra_repr()
    assert (
        repr(FusedGroupNormAct(2, 4, activation="silu")) == f"FusedGroupNormAct({stock}, activation='silu')"
    )
    assert "activation='leaky_relu', negative_slope=0.2)" in repr(TWINS["batch"][1]())


def test_one_step_of_mixed_precision_training() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), FusedBatchNormAct2d(6, activation="relu"), nn.Conv2d(6, 2, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.randn(2, 3, 8, 8))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    bfloat16 = copy.deepcopy(model).bfloat16()
    assert bfloat16(torch.randn(2, 3, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_compiled_module_keeps_its_running_statistics() -> None:
    ours, compiled = FusedBatchNormAct2d(6, activation="relu"), FusedBatchNormAct2d(6, activation="relu")
    torch._dynamo.reset()
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        x = torch.randn(2, 6, 4, 4)
        torch.testing.assert_close(run(x), ours(x))
    torch.testing.assert_close(compiled.state_dict(), ours.state_dict())


def test_conversion_to_synchronized_batch_norm_keeps_the_activation() -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), TWINS["batch"][1](), nn.Sequential(TWINS["group"][1]()))
    converted = convert_sync_batchnorm(copy.deepcopy(model))
    assert type(converted[0]) is nn.SyncBatchNorm
    assert isinstance(converted[1], nn.SyncBatchNorm)
    assert "activation='leaky_relu', negative_slope=0.2" in repr(converted[1])
    x, residual = torch.randn(2, 3, 6, 4, 4)
    torch.testing.assert_close(converted[1](x, residual), model[1](x, residual))
    torch.testing.assert_close(converted(x), model(x))
    torch.testing.assert_close(converted.state_dict(), model.state_dict())
    assert repr(convert_sync_batchnorm(copy.deepcopy(converted))) == repr(converted)


# --- AdaIN --------------------------------------------------------------------------------------------------


def test_adain_starts_as_the_method_says() -> None:
    module = FusedAdaIN(256, 64)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "noise_scale": (), "style.weight": (512, 64), "style.bias": (512,),
    }  # fmt: skip
    assert module.noise_scale.item() == 0
    assert not module.style.bias.any()
    deviation = 0.1 * (2 / (512 + 64)) ** 0.5
    assert abs(module.style.weight.std().item() / deviation - 1) < 0.03
    assert module.style.weight.abs().max() > 2.5 * deviation  # normal, not uniform


def test_parameters_of_adain_are_made_where_and_as_asked() -> None:
    for parameter in FusedAdaIN(8, 3, device="meta", dtype=torch.bfloat16).parameters():
        assert parameter.device.type == "meta" and parameter.dtype == torch.bfloat16


def test_adain_starts_alike_from_the_meta_device() -> None:
    """Where memory comes after the modules, all of them are reset one by one, containers mostly first."""
    with torch.device("meta"):
        module = FusedAdaIN(256, 64)
    module.to_empty(device="cpu")
    for part in module.modules():
        part.reset_parameters()
    expected = FusedAdaIN(256, 64).style.weight.std().item()
    assert module.style.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert not module.style.bias.any() and not module.noise_scale.any()


def test_adain_is_noise_norm_scale_and_shift(backend: str) -> None:
    module = FusedAdaIN(6, 3, activation="leaky_relu", negative_slope=0.2).train()
    nn.init.constant_(module.noise_scale, 0.5)
    nn.init.normal_(module.style.weight)
    x, condition, noise = torch.randn(2, 6, 5, 4), torch.randn(2, 3), torch.randn(2, 1, 5, 4)

    def plain(noise: Tensor | None) -> Tensor:
        gamma, beta = module.style(condition)[:, :, None, None].chunk(2, 1)
        noisy = x if noise is None else x + 0.5 * noise
        return nn.functional.leaky_relu(nn.InstanceNorm2d(6)(noisy) * gamma + beta, 0.2)

    with use(backend):
        torch.testing.assert_close(module(x, condition, noise), plain(noise))
        torch.manual_seed(3)
        drawn = module(x, condition)
        torch.manual_seed(3)
        torch.testing.assert_close(drawn, plain(torch.randn(2, 1, 5, 4)))
        torch.testing.assert_close(module.eval()(x, condition), plain(None))
        module.train()(x, condition).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_adain_names_what_does_not_fit() -> None:
    module, x = FusedAdaIN(6, 3), torch.randn(2, 6, 5, 4)
    with pytest.raises(ValueError, match=r"x must be \[N, 6, H, W\], got shape \[2, 4, 3, 3\]"):
        module(torch.randn(2, 4, 3, 3), torch.randn(2, 3))
    with pytest.raises(
        ValueError, match=r"condition must be \[N, condition_size\] = \[2, 3\], got shape \[2, 4\]"
    ):
        module(x, torch.randn(2, 4))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        module(x[:, :, :1, :1], torch.randn(2, 3))
    one_hot = nn.functional.one_hot(torch.tensor([0, 2]))
    for name, given, kind in (
        ("condition", (x, one_hot), "torch.int64"),
        ("condition", (x, [[1.0, 0.0, 0.0]] * 2), "list"),
        ("x", (x.numpy(), one_hot.float()), "ndarray"),
    ):
        message = f"{name} must be a Tensor of a floating point dtype, got {kind}"
        with pytest.raises(TypeError, match=message):
            module(*given)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        FusedAdaIN(0, 3)
    with pytest.raises(TypeError, match=r"condition_size must be an integer, got 3\.0"):
        FusedAdaIN(6, 3.0)  # type: ignore[arg-type]


def test_no_warning_is_given_in_ordinary_use() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, make in TWINS.values():
            make()(torch.randn(2, 6, 4, 4, requires_grad=True)).sum().backward()
        assert adain(torch.randn(0, 6, 4, 4), torch.randn(0, 6), torch.randn(0, 6)).shape == (0, 6, 4, 4)
