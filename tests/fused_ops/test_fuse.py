"""Models before and after fuse: the same results and names, in training and evaluation; and what stays."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fused_ops import FusedBatchNormAct2d
from fused_ops.fuse import fuse
from fused_ops.fuse_patterns import activation_call, is_pool_call
from tests.fused_ops.fuse_models import MODELS, OwnModules, Pooled, ResidualBlock, chain, served


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


def test_a_fused_model_can_be_saved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    local = type("Local", (), {})  # pickle does not find it
    monkeypatch.setitem(ResidualBlock.forward.__annotations__, "x", local)
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


class Rebuilt(OwnModules):
    """Has its own way to be written down."""

    def __reduce__(self) -> tuple[object, ...]:
        return rebuilt, (type(self), self.state_dict())


class Restored(OwnModules):
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (), self.__getstate__()


def rebuilt(kind: type[nn.Module], state: dict[str, torch.Tensor]) -> nn.Module:
    model = kind()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("kind", [Rebuilt, Restored])
def test_what_has_its_own_way_to_be_written_down_is_saved_unfused(kind: type[nn.Module]) -> None:
    original, x = kind(), torch.randn(2, 4, 5, 5)
    model, report = fuse(original)
    assert len(report.fused) == 2 and type(model) is not kind
    loaded = pickle.loads(pickle.dumps(model))
    assert type(loaded) is kind
    torch.testing.assert_close(loaded(x), original(x))


def test_a_subclass_of_a_fused_model_s_class_is_saved_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: type[nn.Module] = type(fuse(OwnModules()).model)
    subclass = type("Sub", (kind,), {"__module__": __name__, "__qualname__": "Sub"})
    monkeypatch.setattr(sys.modules[__name__], "Sub", subclass, raising=False)
    assert type(pickle.loads(pickle.dumps(subclass()))) is subclass


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
    made = type(model)(norms=3)
    assert type(made) is Mine and len(list(made.children())) == 4


@pytest.mark.parametrize("make", [lambda: chain(nn.BatchNorm2d(4), nn.ReLU()), OwnModules])
def test_a_module_whose_forward_is_not_its_class_s_own_stays(make: Callable[[], nn.Module]) -> None:
    original, x = make(), torch.randn(2, 4, 5, 5)
    stock = original.forward
    original.forward = lambda x: 2 * stock(x)  # type: ignore[method-assign]
    model, report = fuse(original)
    assert not report.fused
    assert set(report.skipped.values()) == {"the forward it is called in is not its class's own"}
    torch.testing.assert_close(model(x), original(x))


@pytest.mark.parametrize(
    "other", [{"kernel_size": 3}, {"stride": 1}, {"padding": 1}, {"dilation": 2}, {"ceil_mode": True},
              {"return_indices": True}], ids=str,
)  # fmt: skip
def test_pooling_of_other_kinds_stays(other: dict[str, int]) -> None:
    options: dict[str, Any] = {"kernel_size": 2, "stride": 2} | other
    original, x = chain(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(**options)), torch.randn(2, 4, 7, 7)
    model, report = fuse(original)
    assert report.fused == {"1": "relu"}
    torch.testing.assert_close(model(x), original(x))


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


@pytest.mark.parametrize("inplace", [False, True])
def test_a_module_that_cannot_be_copied_stays(inplace: bool) -> None:
    class Unique(OwnModules):
        def __deepcopy__(self, memo: object) -> nn.Module:
            if inplace:
                raise TypeError("there is one of these")
            return self

    original, x = nn.Sequential(Unique(), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(2, 4, 5, 5)
    model, report = fuse(original, inplace=inplace)
    reason = (
        "the model cannot be copied (TypeError)"
        if inplace
        else "the module that calls it would not be copied"
    )
    assert report.fused == {"1": "relu"} and report.skipped == {"0.norm1": reason, "0.norm2": reason}
    assert type(original[0]) is Unique and model[0] is original[0]
    torch.testing.assert_close(model(x), original(x))


def test_a_class_that_has_no_subclasses_stays() -> None:
    class Last(type):
        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if any(isinstance(base, Last) for base in bases):
                raise TypeError("no more of these")
            return super().__new__(cls, name, bases, body)

    class Final(OwnModules, metaclass=Last):
        pass

    original, x = Final(), torch.randn(2, 4, 5, 5)
    model, report = fuse(original)
    assert set(report.skipped.values()) == {"the forward it is called in cannot be exchanged (TypeError)"}
    torch.testing.assert_close(model(x), original(x))


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda x: F.elu(x), ("elu", None)),
        (lambda x: F.elu(x, 1.0, True), ("elu", None)),
        (lambda x: F.elu(x, 0.5), None),
        (lambda x: F.elu(x, alpha=x), None),
        (lambda x: F.leaky_relu(x), ("leaky_relu", 0.01)),
        (lambda x: F.leaky_relu(x, 0.3, inplace=True), ("leaky_relu", 0.3)),
        (lambda x: F.leaky_relu(x, negative_slope=0.3), ("leaky_relu", 0.3)),
        (lambda x: F.gelu(x), ("gelu", None)),
        (lambda x: F.gelu(x, approximate="tanh"), None),
        (lambda x: F.relu(x, True), ("relu", None)),
        (lambda x: x.sigmoid(), ("sigmoid", None)),
        (lambda x: torch.tanh(x, out=x), None),
    ],
)
def test_activations_are_known_by_their_calls(call: Callable[..., torch.Tensor], found: object) -> None:
    _, node, _ = fx.symbolic_trace(call).graph.nodes
    assert activation_call(node) == found


@pytest.mark.parametrize("stride", [1, 2])
def test_pooling_is_known_by_its_call(stride: int) -> None:
    for call in (lambda x: torch.max_pool2d(x, 2), lambda x: torch.max_pool2d(x, 2, stride)):
        _, node, _ = fx.symbolic_trace(call).graph.nodes
        assert is_pool_call(node) == (len(node.args) == 2 or stride == 2)


@pytest.mark.parametrize(
    "activation", [nn.LeakyReLU(-0.1), nn.ELU(alpha=0.5), nn.GELU("tanh"), nn.Softplus()], ids=str
)
def test_activations_that_are_not_in_the_table_stay(activation: nn.Module) -> None:
    assert fuse(chain(nn.GroupNorm(2, 4), activation))[1].fused == {}


def test_a_model_must_be_a_module() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        fuse(chain)  # type: ignore[arg-type]
