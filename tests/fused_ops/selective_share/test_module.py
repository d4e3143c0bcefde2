"""The layers: parameters and their names, both published conventions, copies and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from fer_mtl.evaluation.stock import StockSelectiveShare
from fused_ops import FusedConvFLU, FusedSelectiveShare, explain, native, selective_share, use
from fused_ops.selective_share import reference
from tests.numerics import saved_bytes


def test_names_shapes_and_initialisation_of_the_parameters() -> None:
    share = FusedSelectiveShare(6, 4)
    shapes = {name: tuple(parameter.shape) for name, parameter in share.named_parameters()}
    assert shapes == {
        "x_from_y.W_r.weight": (4, 10, 1, 1),
        "x_from_y.W.weight": (6, 4, 1, 1),
        "x_from_y.U.weight": (6, 6, 1, 1),
        "x_from_y.W_z.weight": (6, 10, 1, 1),
        "y_from_x.W_r.weight": (6, 10, 1, 1),
        "y_from_x.W.weight": (4, 6, 1, 1),
        "y_from_x.U.weight": (4, 4, 1, 1),
        "y_from_x.W_z.weight": (4, 10, 1, 1),
    }
    bound = 10**-0.5  # torch's default: uniform within 1 / sqrt(inputs)
    assert 0.5 * bound < share.x_from_y.W_r.weight.abs().max() <= bound


@pytest.mark.parametrize("layer", [FusedConvFLU, FusedSelectiveShare])
def test_weights_are_made_where_and_as_asked(layer: type[FusedConvFLU] | type[FusedSelectiveShare]) -> None:
    for weight in layer(4, 6, device="meta", dtype=torch.bfloat16).parameters():
        assert weight.device.type == "meta" and weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_public_checkpoints_unit_loads_and_keeps_its_convention(kernel_size: int) -> None:
    """A unit as the public code has it: z keeps; its four convolutions under the same names."""
    state = {
        f"{name}.weight": torch.randn(8, inputs, kernel_size, kernel_size) / 4
        for name, inputs in (("W_r", 16), ("W", 8), ("U", 8), ("W_z", 16))
    }
    share = FusedSelectiveShare(8, kernel_size=kernel_size, convention="keep")
    share.x_from_y.load_state_dict(state)
    x, y = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)
    weights = [state[f"{name}.weight"] for name in ("W_r", "W", "U", "W_z")]
    h, z = (reference.conv_flu(x, y, weights, keep=True)[index] for index in (1, 3))
    torch.testing.assert_close(share(x, y)[0], z * x + (1 - z) * h)


def test_units_alone_give_what_the_pair_gives() -> None:
    share = FusedSelectiveShare(5, 7)
    x, y = torch.randn(2, 5, 4, 4), torch.randn(2, 7, 4, 4)
    x_out, y_out, gates = share(x, y, return_gates=True)
    torch.testing.assert_close(share.x_from_y(x, y), x_out)
    torch.testing.assert_close(share.y_from_x(y, x), y_out)
    assert gates.x_from_y.r.shape == gates.y_from_x.h.shape == y.shape
    assert gates.y_from_x.r.shape == gates.x_from_y.z.shape == x.shape


@pytest.mark.parametrize("recompute", [False, True])
def test_checkpointing_and_recomputing_change_no_gradient(recompute: bool) -> None:
    share = FusedSelectiveShare(4, recompute=recompute)
    x, y = (torch.randn(2, 4, 5, 5, requires_grad=True) for _ in range(2))
    inputs = (x, y, *share.parameters())
    plain = torch.autograd.grad(sum(o.square().sum() for o in share(x, y)), inputs)
    again = torch.autograd.grad(
        sum(o.square().sum() for o in checkpoint(share, x, y, use_reentrant=False)), inputs
    )
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def test_recomputing_may_be_switched_on_later() -> None:
    share = FusedSelectiveShare(4)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    kept = saved_bytes(lambda: share(x, x))
    share.recompute = True
    assert share.recompute and share.x_from_y.recompute and share.y_from_x.recompute
    assert saved_bytes(lambda: share(x, x)) < kept


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("layer", [FusedConvFLU, FusedSelectiveShare])
def test_gradients_have_the_weights_strides(layer: Callable[..., nn.Module], kernel_size: int) -> None:
    """Even those that mean nothing, of dimensions of one element: DDP warns where they differ."""
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    plain = layer(4, 6, kernel_size)
    for module in (plain, copy.deepcopy(plain).to(memory_format=torch.channels_last)):
        for call in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
            module.zero_grad()
            found = call(x, y)
            sum(part.square().sum() for part in (found if isinstance(found, tuple) else (found,))).backward()
            for weight, expected in zip(module.parameters(), plain.parameters(), strict=True):
                assert weight.grad is not None and weight.grad.stride() == weight.stride()
                torch.testing.assert_close(weight.grad, expected.grad)


def test_copies_exports_and_compiles() -> None:
    share = FusedSelectiveShare(4, 3)
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 5, 5)
    expected = share(x, y)
    torch.testing.assert_close(copy.deepcopy(share)(x, y), expected)
    torch.testing.assert_close(torch.export.export(share, (x, y)).module()(x, y), expected)
    share.compile(fullgraph=True)
    torch.testing.assert_close(share(x, y), expected)
    assert not any("_orig_mod" in name for name in share.state_dict())


def test_the_functional_twin_takes_the_modules_weights() -> None:
    share = FusedSelectiveShare(4)
    x, y = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(
        selective_share(x, y, share.x_from_y.weights, share.y_from_x.weights), share(x, y)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x_channels": 0}, "x_channels must be at least 1, got 0"),
        ({"x_channels": 4, "y_channels": -1}, "y_channels must be at least 1, got -1"),
        ({"x_channels": 4, "kernel_size": 2}, "kernel_size must be odd.*got 2"),
        ({"x_channels": 4, "kernel_size": (3, 3)}, r"kernel_size must be an integer, got \(3, 3\)"),
        ({"x_channels": 4.0}, "x_channels must be an integer, got 4.0"),
        ({"x_channels": 4, "convention": "paper"}, "convention is 'paper'; allowed are 'accept', 'keep'"),
    ],
)
@pytest.mark.parametrize("module", [FusedConvFLU, FusedSelectiveShare])
def test_bad_arguments_are_named(
    module: type[torch.nn.Module], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        module(**arguments)


def test_the_representation_tells_the_settings() -> None:
    assert "convention='keep', recompute=True" in repr(FusedConvFLU(4, convention="keep", recompute=True))


REPARAMETRISATIONS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.random_unstructured(layer, "weight", amount=0.5),
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", REPARAMETRISATIONS)
def test_weights_that_hooks_make_are_made_anew_for_every_call(name: str) -> None:
    def reparametrised() -> FusedSelectiveShare:
        torch.manual_seed(1)
        share = FusedSelectiveShare(4, 3)
        for unit in (share.x_from_y, share.y_from_x):
            for convolution in (unit.W_r, unit.W, unit.U, unit.W_z):
                REPARAMETRISATIONS[name](convolution)
        return share

    share, stock = reparametrised(), StockSelectiveShare(reparametrised())
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 5, 5)
    optimizers = [torch.optim.SGD(network.parameters(), 0.1) for network in (share, stock)]
    for _ in range(3):
        results = [network(x, y) for network in (share, stock)]
        torch.testing.assert_close(*results)
        for result, optimizer in zip(results, optimizers, strict=True):
            optimizer.zero_grad()
            sum(out.square().sum() for out in result).backward()
            optimizer.step()
    torch.testing.assert_close(share.eval()(x, y), stock.eval()(x, y))


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "")
@pytest.mark.parametrize("layer", [FusedConvFLU, FusedSelectiveShare])
def test_a_convolution_that_computes_something_else_is_refused(layer: type[nn.Module]) -> None:
    class Adapted(nn.Module):
        """As low-rank adapters wrap a layer, whose weight they show."""

        def __init__(self, base: nn.Conv2d) -> None:
            super().__init__()
            self.base, self.adapter = base, nn.Conv2d(base.in_channels, base.out_channels, 1)

        @property
        def weight(self) -> torch.Tensor:
            return self.base.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.adapter(x)

    class Named(nn.Conv2d):
        pass

    x, module = torch.randn(2, 4, 3, 3), layer(4)
    unit: FusedConvFLU = getattr(module, "x_from_y", module)
    expected = module(x, x)
    named = Named(8, 4, 1, bias=False)
    named.load_state_dict(unit.W_r.state_dict())
    unit.W_r = named
    torch.testing.assert_close(module(x, x), expected)
    unit.W_r = torch.ao.nn.qat.Conv2d(8, 4, 1, qconfig=torch.ao.quantization.get_default_qat_qconfig())
    with pytest.raises(TypeError, match=r"is torch\.ao\.nn\.qat\..*\.Conv2d, whose forward would not run"):
        module(x, x)
    unit.W_r = Adapted(named)
    with pytest.raises(TypeError, match=rf"a convolution of the unit is {__name__}\.Adapted, whose"):
        module(x, x)


def test_few_pixels_of_many_channels_are_left_to_torch() -> None:
    share = FusedSelectiveShare(512)
    few, many = torch.randn(3, 512, 1, 1), torch.randn(2, 512, 1, 2)
    assert explain(share, few, few)[0].reasons["cpu"] == (
        "torch's own products are quicker for 3 pixels of 1024 channels"
    )
    assert explain(share, many, many)[0].backend == "cpu"
    with use("cpu"):
        assert explain(share, few, few)[0].backend == "cpu"
    assert explain(FusedSelectiveShare(8), few[:, :8], few[:, :8])[0].backend == "cpu"
    assert explain(share.bfloat16(), many.bfloat16(), many.bfloat16())[0].backend == "reference"
