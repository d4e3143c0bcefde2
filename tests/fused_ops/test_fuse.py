"""Models before and after fuse: the same results and names, in training and evaluation; and what stays."""

from __future__ import annotations

import copy
import io
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fused_ops import FusedBatchNormAct2d, explain
from fused_ops.fuse import fuse


class ResidualBlock(nn.Module):
    """As in residual networks: one ReLU module called twice, an in-place sum, an optional shortcut."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, 1, 1), nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Parameter(torch.ones(2))
        self.note = "kept"
        same = c_in == c_out
        self.shortcut = None if same else nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            identity = self.shortcut(x)
        out += identity
        return self.relu(out)


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4), nn.GroupNorm(1, 4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[0](x))
        x = F.leaky_relu(self.norms[1](x), 0.2)
        y = self.norms[2](x).tanh()
        return F.gelu(y + self.norms[3](y))


class OwnModules(nn.Module):
    """Activations as modules of their own: nothing but modules need be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.act1 = nn.GroupNorm(2, 4), nn.SiLU()
        self.norm2, self.act2 = nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(self.norm2(self.act1(self.norm1(x))))


class Placeholders(nn.Module):
    """Blocks in which other networks of their kind have something between norm and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.drop1, self.act1 = nn.BatchNorm2d(4), nn.Identity(), nn.ReLU()
        self.norm2, self.drop2, self.drop3 = nn.GroupNorm(2, 4), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.drop1(self.norm1(x)))
        y = self.drop3(self.drop2(self.norm2(y)))
        y += x
        return F.leaky_relu(y)


class Branches(nn.Module):
    """What is within brackets is a function of its own before Python 3.12, and so is what is after def."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(torch.stack([conv(x) for conv in self.convs]).sum(0)))
        y = sum(conv(y) + x for conv in self.convs)

        def shifted(z: Tensor) -> Tensor:
            return z + x

        return F.silu(self.norm2(shifted(y)))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.InstanceNorm2d(4)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(x) + x), 2)
        return self.pool(torch.tanh(self.norm2(torch.cat([x, x], dim=2))))


def twice() -> nn.Module:
    """The second call stands between the norm and what would otherwise follow it."""
    act = nn.SiLU()
    return nn.Sequential(act, nn.BatchNorm2d(4), act, nn.Softplus())


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 3), *modules)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "sequential": (
        lambda: chain(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.ELU()),
        {"1": "relu", "4": "elu"},
    ),
    "nested": (
        lambda: nn.Sequential(
            chain(nn.InstanceNorm2d(4), nn.LeakyReLU(0.2)), nn.Sequential(nn.Conv2d(4, 2, 1))
        ),
        {"0.1": "leaky_relu"},
    ),
    "residual": (
        lambda: nn.Sequential(ResidualBlock(4, 4), ResidualBlock(4, 6)),
        {"0.bn1": "relu", "0.bn2": "add + relu", "1.bn1": "relu", "1.bn2": "add + relu"},
    ),
    "functions": (
        Functions,
        {"norms.0": "silu", "norms.1": "leaky_relu", "norms.2": "tanh", "norms.3": "add + gelu"},
    ),
    "branches": (Branches, {"norm1": "relu", "norm2": "silu"}),
    "own modules": (OwnModules, {"norm1": "silu", "norm2": "leaky_relu"}),
    "placeholders": (
        lambda: nn.Sequential(
            Placeholders(), nn.BatchNorm2d(4), nn.Identity(), nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)
        ),
        {"0.norm1": "relu", "0.norm2": "add + leaky_relu", "1": "relu + max-pool"},
    ),
    "placeholders at the end": (lambda: chain(nn.BatchNorm2d(4), nn.Identity()), {}),
    "pooled": (lambda: chain(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), {"1": "relu + max-pool"}),
    "pooled by calls": (Pooled, {"norm1": "add + relu + max-pool", "norm2": "tanh + max-pool"}),
    "pooled, but decreasing": (lambda: chain(nn.GroupNorm(2, 4), nn.SiLU(), nn.MaxPool2d(2)), {"1": "silu"}),
    "pooled otherwise": (lambda: chain(nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(3, 2)), {"1": "relu"}),
    "one module twice": (twice, {"1": "silu"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_results_names_and_the_original_stay(name: str) -> None:
    make, expected = MODELS[name]
    original = make().double()
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.5)
    kept = copy.deepcopy(original)
    model, report = fuse(original)
    assert report.fused == expected
    assert repr(original) == repr(kept)
    assert list(model.state_dict()) == list(original.state_dict())
    for _ in range(2):  # training, with running statistics and gradients
        x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
        outputs = [module(x) for module in (original, model)]
        torch.testing.assert_close(*outputs)
        grads = [
            torch.autograd.grad(
                output.square().sum(), [p for p in module.parameters() if p.numel() > 2], allow_unused=True
            )
            for output, module in zip(outputs, (original, model), strict=True)
        ]
        torch.testing.assert_close(*grads)
    torch.testing.assert_close(model.state_dict(), original.state_dict())
    torch.testing.assert_close(model.eval()(x), original.eval()(x))
    torch.testing.assert_close(copy.deepcopy(model)(x), original(x))
    again, second = fuse(model)
    assert second.fused == {}
    torch.testing.assert_close(again(x), original(x))


def test_what_the_report_says() -> None:
    _, report = fuse(nn.Sequential(ResidualBlock(4, 6)))
    assert str(report).splitlines() == [
        "fused 2 of 3 norms",
        "    0.bn1 + relu",
        "    0.bn2 + add + relu",
        "    not 0.shortcut.1: no activation of the table follows it directly",
    ]


def test_norms_of_other_kinds_are_told() -> None:
    class Own(nn.BatchNorm2d):
        pass

    norms = [nn.BatchNorm3d(4), nn.SyncBatchNorm(4), Own(4), FusedBatchNormAct2d(4), nn.LayerNorm(4)]
    report = fuse(nn.Sequential(*norms, nn.ReLU())).report
    kinds = {"0": "BatchNorm3d", "1": "SyncBatchNorm", "2": "Own"}
    assert report.skipped == {name: f"there is no fused form of {kind}" for name, kind in kinds.items()}
    parametrized = nn.utils.parametrizations.weight_norm(nn.GroupNorm(2, 4))
    reason = "there is no fused form of ParametrizedGroupNorm"
    assert fuse(parametrized).report.skipped == {"the model": reason}


def served(model: nn.Module, *inputs: Tensor) -> int:
    """How many fused norms a call runs."""
    return len(explain(model, *inputs))


def test_chains_run_as_one_op_and_modules_stay() -> None:
    x = torch.randn(2, 4, 6, 6)
    for make, norms in ((OwnModules, 2), (lambda: ResidualBlock(4, 4), 2), (Pooled, 2)):
        original = make()
        model, report = fuse(original)
        assert served(model, x) == len(report.fused) == norms
        assert isinstance(model, type(original))
        assert type(model).__name__ == type(original).__name__
        assert [type(m) for m in model.children()] == [type(m) for m in original.children()]
    block, _ = fuse(ResidualBlock(4, 4))
    assert block.note == "kept"
    assert "unused" in dict(block.named_parameters())


def test_in_place_changes_the_model_itself() -> None:
    original = chain(nn.BatchNorm2d(4), nn.ReLU())
    model, _ = fuse(original, inplace=True)
    assert model is original
    assert served(original, torch.randn(2, 4, 6, 6)) == 1


def test_a_fused_model_can_be_saved_whole() -> None:
    model, _ = fuse(nn.Sequential(ResidualBlock(4, 6)))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded, x = torch.load(buffer, weights_only=False), torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))
    assert type(loaded[0]) is type(model[0])  # or each time that it is loaded it would be compiled anew


@pytest.mark.parametrize(
    "make", [lambda: chain(nn.BatchNorm2d(4), nn.ReLU()), lambda: ResidualBlock(4, 4), Pooled]
)
def test_what_else_is_done_with_models_works_with_fused_ones(make: Callable[[], nn.Module]) -> None:
    original = make().eval()
    model, _ = fuse(original)
    x = torch.randn(2, 4, 6, 6)
    expected = original(x)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    torch.testing.assert_close(fx.symbolic_trace(model)(x), expected)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    replica = model._replicate_for_data_parallel()  # as nn.DataParallel makes one for every card
    replica._modules = {name: copy.deepcopy(child) for name, child in model.named_children()}
    for norm in replica.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.bias = nn.Parameter(norm.bias + 1)
    assert not torch.allclose(replica(x), expected)
    torch.testing.assert_close(model(x), expected)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    assert not torch.allclose(torch.func.functional_call(model, state, x), expected)


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

    x = torch.randn(2, 4, 3, 3)
    for kind in (Net, Branching):
        original = kind()
        model, _ = fuse(original)
        for change in ({}, {"scale": 3.0}, {"skips": False}, {"extra": nn.Conv2d(4, 4, 1)}, {"extra": None}):
            for name, value in change.items():
                setattr(original, name, value)
                setattr(model, name, value)
            torch.testing.assert_close(model(x=x), original(x))
            torch.testing.assert_close(copy.deepcopy(model)(x), original(x))
            torch._dynamo.reset()  # or many models of one class would use up the limit on recompilations
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(x), original(x))
        assert served(fuse(kind()).model, x) == 1


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


def test_blocks_of_one_kind_stay_of_one_kind() -> None:
    model, _ = fuse(nn.Sequential(ResidualBlock(4, 4), ResidualBlock(4, 4), ResidualBlock(4, 6)))
    kinds = [type(block) for block in model]
    assert kinds[0] is kinds[1] is not kinds[2]
    assert type(copy.deepcopy(model)[0]) is kinds[0]


def test_a_module_keeps_its_own_ways() -> None:
    class Frozen(ResidualBlock):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.bn1.eval()
            return self

        def get_extra_state(self) -> int:
            return 3

        def set_extra_state(self, state: int) -> None:
            self.note = str(state)

    model, report = fuse(Frozen(4, 4))
    assert len(report.fused) == 2
    model.train()
    assert not model.bn1.training and model.bn2.training
    assert model.state_dict()["_extra_state"] == 3
    model.load_state_dict(model.state_dict())
    assert model.note == "3"


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.ELU()], ids=str)
@pytest.mark.parametrize("side", [6, 96])
def test_outputs_may_be_written_into_where_torch_s_may(activation: nn.Module, side: int) -> None:
    original = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), activation).double()
    model, report = fuse(original)
    assert len(report.fused) == 1
    x = torch.randn(2, 4, side, side, dtype=torch.float64)
    grads = []
    for module in (original, model):
        y = module(x)
        y += x  # as in Darknet's residual blocks
        grads.append(torch.autograd.grad(y.square().sum(), list(module.parameters())))
    torch.testing.assert_close(*grads)


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


def test_a_sequential_of_another_name_is_one_too() -> None:
    class ConvNormAct(nn.Sequential):
        def __init__(self, channels: int) -> None:
            super().__init__(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    original, x = ConvNormAct(4), torch.randn(2, 4, 5, 5)
    model, report = fuse(original)
    assert report.fused == {"1": "relu"} and isinstance(model, ConvNormAct) and served(model, x) == 1
    for module in (original, model):
        module.insert(0, nn.Tanh())
        module.append(nn.Hardswish())
    torch.testing.assert_close(model(x), original(x))
    torch.testing.assert_close(copy.deepcopy(model)(x), original(x))


def test_a_sequential_that_goes_its_own_way_stays() -> None:
    class Backwards(nn.Sequential):
        def __iter__(self) -> Iterator[nn.Module]:
            return iter(list(self._modules.values())[::-1])

    original, x = Backwards(nn.BatchNorm2d(4), nn.ReLU()), torch.randn(2, 4, 5, 5)
    model, report = fuse(original)
    assert report.skipped == {"0": "the Sequential it is in does not call one module after the other"}
    torch.testing.assert_close(model(x), original(x))


def test_registries_and_who_makes_more_of_a_kind_see_the_original_class() -> None:
    kinds: dict[str, type] = {}

    class Listed(OwnModules):
        def __init__(self, norms: int = 2) -> None:
            super().__init__()

        def __init_subclass__(cls) -> None:
            if cls.__name__ in kinds:
                raise ValueError("listed already")
            kinds[cls.__name__] = cls

    class Mine(Listed):
        pass

    model, report = fuse(Mine())
    assert len(report.fused) == 2 and kinds == {"Mine": Mine}
    assert type(type(model)(norms=3)) is Mine


def test_of_two_norms_in_a_sum_one_is_fused() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b1, self.b2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b1(x) + self.b2(2 * x))

    original, x = Sum(), torch.randn(2, 4, 3, 3)
    model, report = fuse(original)
    assert report.fused == {"b1": "add + relu"}
    assert report.skipped == {"b2": "what follows is fused with another norm"}
    torch.testing.assert_close(model(x), original(x))


def test_what_torch_takes_and_the_fused_norms_do_not_goes_torch_s_way() -> None:
    for norm, x in (
        (nn.GroupNorm(2, 4, eps=0.0), torch.randn(2, 4, 3, 3)),
        (nn.InstanceNorm2d(8), torch.randn(2, 4, 3, 3)),
        (nn.InstanceNorm2d(4, track_running_stats=True), torch.randn(2, 4, 3, 3).double()),
    ):
        model, report = fuse(nn.Sequential(norm, nn.ReLU()))
        assert len(report.fused) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of the other number of channels
            torch.testing.assert_close(model(x), norm(x).relu())


def test_an_in_place_sum_keeps_the_norm_s_dtype() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 4)

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            y = self.norm(x)
            y += other
            return torch.relu(y)

    original = Sum().bfloat16()
    model, report = fuse(original)
    assert report.fused == {"norm": "add + relu"}
    x, other = torch.randn(2, 4, 3, 3).bfloat16(), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(model(x, other), original(x, other))


def test_what_is_done_in_place_shows_wherever_it_did() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            before = self.conv(x)
            after = before
            after *= 2
            x -= 1
            after /= 3
            return torch.relu(self.norm(x)) + before

    original = Net()
    model, report = fuse(original)
    assert report.fused == {"norm": "relu"}
    x = [torch.randn(2, 4, 3, 3)] * 2
    x = [value.clone() for value in x]
    torch.testing.assert_close(model(x[0]), original(x[1]))
    torch.testing.assert_close(*x)


def test_a_sum_that_broadcasts_or_promotes_stays_right() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 4)

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return torch.relu(other + self.norm(x))

    original, x = Sum(), torch.randn(2, 4, 3, 3)
    model, report = fuse(original)
    assert report.fused == {"norm": "add + relu"}
    for other in (torch.randn(1, 4, 1, 1), torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3)):
        torch.testing.assert_close(model(x, other), original(x, other))


def test_shared_hooked_and_parametrized_norms_stay() -> None:
    norm = nn.BatchNorm2d(4)
    model, report = fuse(nn.Sequential(norm, nn.ReLU(), norm))
    assert report.fused == {"0": "relu"}
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(model(x), norm(norm(x).relu()))
    hooked = chain(nn.BatchNorm2d(4), nn.ReLU())
    hooked[2].register_forward_hook(lambda *_: None)
    assert fuse(hooked)[1].skipped == {"1": "there are hooks on it or on its activation"}
    parametrized = chain(nn.utils.parametrizations.weight_norm(nn.GroupNorm(2, 4)), nn.ReLU())
    assert fuse(parametrized)[1].fused == {}


@pytest.mark.parametrize(
    "activation", [nn.LeakyReLU(-0.1), nn.ELU(alpha=0.5), nn.GELU("tanh"), nn.Softplus()], ids=str
)
def test_activations_that_are_not_in_the_table_stay(activation: nn.Module) -> None:
    assert fuse(chain(nn.GroupNorm(2, 4), activation))[1].fused == {}


def test_a_model_must_be_a_module() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        fuse(chain)  # type: ignore[arg-type]
