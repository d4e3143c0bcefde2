"""What is changed, exchanged or hooked after fuse counts in the fused model as in the original."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_ops.fuse import fuse
from tests.fused_ops.fuse_models import OwnModules, Placeholders, Pooled, ResidualBlock, chain, served


@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(nn.BatchNorm2d(4), nn.ReLU()),
        lambda: chain(nn.BatchNorm2d(4), nn.Identity(), nn.ReLU()),
        OwnModules,
        Placeholders,
        lambda: ResidualBlock(4, 4),
    ],
)
def test_what_hangs_on_modules_or_replaces_them_later_counts(make: Callable[[], nn.Module]) -> None:
    original = make()
    model, report = fuse(original)
    x, seen = torch.randn(2, 4, 6, 6), []
    for module in (original, model):
        for child in module.children():
            child.register_forward_hook(lambda child, _, y: seen.append(type(child)) or (y + 1))  # type: ignore[func-returns-value]
        module.register_forward_hook(lambda _, __, y: 2 * y)
    torch.testing.assert_close(model(x), original(x))
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :] and served(model, x) < len(report.fused)
    original = make()
    model, _ = fuse(original)
    for module in (original, model):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    torch.testing.assert_close(model(x), original(x))


def test_hooks_on_all_modules_of_the_program_run() -> None:
    original = chain(nn.BatchNorm2d(4), nn.ReLU())
    model, _ = fuse(original)
    x, seen = torch.randn(2, 4, 6, 6), []
    with nn.modules.module.register_module_forward_hook(lambda child, _, y: seen.append(child)):
        for module in (original, model):
            module(x)
            assert seen == [*module.children(), module]
            seen.clear()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.ReLU, nn.Identity, nn.MaxPool2d, nn.Sequential])
def test_another_forward_in_torch_s_class_counts(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some programs put theirs there for all modules of a kind."""
    original = chain(nn.BatchNorm2d(4), nn.Identity(), nn.ReLU(), nn.MaxPool2d(2))
    model, report = fuse(original)
    assert report.fused == {"1": "relu + max-pool"}
    x, torchs = torch.randn(2, 4, 6, 6), kind.forward
    expected = original(x)
    monkeypatch.setattr(kind, "forward", lambda self, x: torchs(self, x) + 1)
    assert not torch.allclose(original(x), expected)
    torch.testing.assert_close(model(x), original(x))
    if kind in (nn.BatchNorm2d, nn.ReLU):
        reason = "its class, or that of its activation, has another forward than torch gave it"
        assert fuse(original)[1].skipped == {"1": reason}
    torch.testing.assert_close(fuse(original).model(x), original(x))


@pytest.mark.parametrize("where", ["drop1", "drop3"])
def test_a_placeholder_may_be_hooked_or_filled_later(where: str) -> None:
    original, x = Placeholders(), torch.randn(2, 4, 6, 6)
    model, _ = fuse(original)
    assert served(model, x) == 2
    seen: list[Tensor] = []
    for module in (original, model):
        module.get_submodule(where).register_forward_hook(lambda _, __, y: seen.append(y.clone()))
    torch.testing.assert_close(model(x), original(x))
    torch.testing.assert_close(*seen)
    assert served(model, x) == 1
    _, report = fuse(original)
    assert len(report.fused) == 1
    for module in (original, model):
        setattr(module, where, nn.Tanh())
    torch.testing.assert_close(model(x), original(x))


def test_attributes_that_change_later_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.scale, self.skips, self.extra = nn.GroupNorm(2, 4), 2.0, True, None

        def forward(this, x: Tensor) -> Tensor:
            y = this.norm(x)
            return torch.relu(y + x) * this.scale

    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = F.silu(self.norm(x)) * self.scale
            if self.extra is not None:
                y = self.extra(y)
            return y + x if self.skips else y

    class Extended(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Conv2d(4, 4, 1)

    x = torch.randn(2, 4, 3, 3)
    for kind in (Net, Branching, Extended):
        for change in ({}, {"scale": 3.0}, {"skips": False}, {"extra": nn.Conv2d(4, 4, 1)}, {"extra": None}):
            original = kind()
            model, _ = fuse(original)
            for name, value in change.items():
                setattr(original, name, value)
                setattr(model, name, value)
            torch.testing.assert_close(model(x=x), original(x))
            torch.testing.assert_close(copy.deepcopy(model)(x), original(x))
            torch._dynamo.reset()  # or many models of one class would use up the limit on recompilations
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(x), original(x))
        assert served(fuse(kind()).model, x) == 1


@dataclass
class Options:
    scale: float = 2.0


@pytest.mark.parametrize("held", [Options(), types.SimpleNamespace(scale=2.0), {"scale": 2.0}], ids=str)
def test_what_attributes_hold_may_change_within_them(held: Any) -> None:
    class Holds(OwnModules):
        def __init__(self) -> None:
            super().__init__()
            self.held, self.function = held, torch.sin

        def forward(self, x: Tensor) -> Tensor:
            return self.function(self.act1(self.norm1(x))) * self.held.scale

    class HoldsItems(Holds):
        def forward(self, x: Tensor) -> Tensor:
            return self.function(self.act1(self.norm1(x))) * self.held["scale"]

    x, original = torch.randn(2, 4, 3, 3), HoldsItems() if isinstance(held, dict) else Holds()
    model, report = fuse(original)
    assert report.fused == {"norm1": "silu"} and served(model, x) == 1
    for module in (original, model):
        (module.held if isinstance(module.held, dict) else vars(module.held))["scale"] = 3.0
    torch.testing.assert_close(model(x), original(x))
    model = fuse(original).model
    for module in (original, model):
        module.function = torch.cos
    torch.testing.assert_close(model(x), original(x))


@pytest.mark.parametrize("kind", [nn.ParameterList, nn.ParameterDict])
def test_lists_of_parameters_may_grow_later(kind: type) -> None:
    class Scaled(OwnModules):
        def __init__(self) -> None:
            super().__init__()
            scales = [nn.Parameter(torch.ones(()))]
            self.scales: Any = kind(scales if kind is nn.ParameterList else {"0": scales[0]})

    class Listed(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act1(self.norm1(x))
            for scale in self.scales:
                x = x * scale
            return x

    class Named(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            x = self.act1(self.norm1(x))
            for scale in self.scales.values():
                x = x * scale
            return x

    x = torch.randn(2, 4, 3, 3)
    original = Listed() if kind is nn.ParameterList else Named()
    model, report = fuse(original)
    assert len(report.fused) == 1
    for module in (original, model):
        more = nn.Parameter(torch.tensor(3.0))
        module.scales.append(more) if kind is nn.ParameterList else module.scales.update({"1": more})
    torch.testing.assert_close(model(x), original(x))


def test_whoever_calls_the_parts_elsewhere_finds_them() -> None:
    class Taps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = chain(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
            self.block = ResidualBlock(4, 4)
            self.blocks = [self.block]

        def forward(self, x: Tensor) -> list[Tensor]:
            found = [self.features(x), self.features[:2](x), self.block.bn2(x), *(b(x) for b in self.blocks)]
            for layer in self.features:
                found.append(x := layer(x))
            return found

    original = Taps()
    model, report = fuse(original)
    assert set(report.fused) == {"features.1", "block.bn1", "block.bn2"}
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(model(x), original(x))
    assert isinstance(model.features[:2], nn.Sequential)


def test_what_is_exchanged_or_loaded_later_counts() -> None:
    class Scaled(Pooled):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(torch.relu(self.norm1(x))) * self.scale.item()

    original = Scaled()
    model, report = fuse(original)
    assert report.fused == {"norm1": "relu + max-pool"}
    x = torch.randn(2, 4, 6, 6)
    assert served(model, x) == 1
    for change in (lambda m: m.scale.fill_(3), lambda m: setattr(m, "pool", nn.AvgPool2d(2))):
        for module in (original, model):
            change(module)
        torch.testing.assert_close(model(x), original(x))
    original = nn.Sequential(OwnModules(), Scaled())
    model, report = fuse(original)
    assert len(report.fused) == 3
    for module in (original, model):
        for owner, name in ((module[0], "act1"), (module[0], "norm2"), (module[1], "pool")):
            delattr(owner, name)
            setattr(owner, name, torch.tanh)
    torch.testing.assert_close(model(x), original(x))


def test_methods_that_are_exchanged_later_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Features(OwnModules):
        def features(self, x: Tensor) -> Tensor:
            return self.act1(self.norm1(x))

        def forward(self, x: Tensor) -> Tensor:
            return self.act2(self.norm2(self.features(x)))

    x = torch.randn(2, 4, 3, 3)
    for patch in (
        lambda module: setattr(module, "features", types.MethodType(lambda self, x: self.norm1(x), module)),
        lambda module: monkeypatch.setattr(Features, "features", lambda self, x: self.norm2(x)),
        lambda module: monkeypatch.setattr(Features, "forward", lambda self, x: self.norm1(x)),
    ):
        original = Features()
        model, report = fuse(original)
        assert len(report.fused) == 2 and served(model, x) == 2
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), original(x))
        for module in (original, model):
            patch(module)
        torch.testing.assert_close(model(x), original(x))
        monkeypatch.undo()


def test_of_what_has_two_names_one_may_be_exchanged() -> None:
    """A graph calls it by one of them."""

    class Shares(OwnModules):
        def __init__(self) -> None:
            super().__init__()
            self.act2 = self.act1
            self.scale1 = self.scale2 = nn.Parameter(torch.ones(4, 1, 1))
            self.register_buffer("shift1", torch.zeros(()))
            self.register_buffer("shift2", self.shift1)
            self.convs = nn.ModuleList([nn.Conv2d(4, 4, 1)] * 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act2(self.norm2(self.act1(self.norm1(x)))) * self.scale1 + self.scale2
            y = y * self.shift1 + self.shift2
            for conv in self.convs:
                y = conv(y)
            return y

    x = torch.randn(2, 4, 3, 3)
    for name, change in {
        "act2": nn.Tanh(),
        "scale2": nn.Parameter(torch.zeros(4, 1, 1)),
        "shift2": torch.ones(()),
        "convs.1": nn.Identity(),
    }.items():
        original = Shares()
        model, report = fuse(original)
        assert len(report.fused) == 2 and served(model, x) == 2
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), original(x))
        for module in (original, model):
            above, _, last = name.rpartition(".")
            setattr(module.get_submodule(above), last, change)
        torch.testing.assert_close(model(x), original(x))
        torch.testing.assert_close(compiled(x), original(x))
