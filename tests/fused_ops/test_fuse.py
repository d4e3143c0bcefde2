"""Models before and after fuse: the same results and names, in training and evaluation; and what stays."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_ops import FusedBatchNormAct2d, FusedGroupNormAct, FusedInstanceNormAct2d
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
    "own modules": (OwnModules, {"norm1": "silu", "norm2": "leaky_relu"}),
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


def test_modules_keep_their_class_where_they_can() -> None:
    model, _ = fuse(OwnModules())
    assert type(model) is OwnModules
    assert type(model.norm1) is FusedGroupNormAct
    assert type(model.norm2) is FusedInstanceNormAct2d
    block, _ = fuse(ResidualBlock(4, 4))
    assert type(block.bn1) is FusedBatchNormAct2d
    assert block.note == "kept"
    assert "unused" in dict(block.named_parameters())


def test_in_place_changes_the_model_itself() -> None:
    original = chain(nn.BatchNorm2d(4), nn.ReLU())
    model, _ = fuse(original, inplace=True)
    assert model is original
    assert type(original[1]) is FusedBatchNormAct2d


def test_a_fused_model_can_be_saved_whole() -> None:
    model, _ = fuse(nn.Sequential(ResidualBlock(4, 6)))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(torch.load(buffer, weights_only=False).eval()(x), model.eval()(x))


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


# --- what must stay -----------------------------------------------------------------------------------------


class Doubtful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()


class TwoUses(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y) + y


class TwoCalls(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) + self.norm(x + 1)


class Optional(Doubtful):
    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        return self.norm(x) if skip is None else self.act(self.norm(x))


class Branches(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            return self.norm(x)
        return self.act(self.norm(x))


class Training(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.act(self.norm(x)), training=self.training)


class Writes(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x.mul_(0)
        return self.act(y + x)


class DataDependent(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y) if y.sum() > 0 else y


class OtherActivation(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(x), approximate="tanh")


class WeightedSum(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(torch.add(self.norm(x), x, alpha=2))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (TwoUses, "its output is used 2 times"),
        (TwoCalls, "it is called more than once"),
        (Optional, "the forward it is called in has optional arguments"),
        (Branches, "forward, which runs in the forward, branches on more than attributes"),
        (Training, "the forward it is called in differs between training and evaluation"),
        (Writes, "its input may be changed before the sum"),
        (DataDependent, "torch.fx cannot record the forward it is called in (TraceError)"),
        (OtherActivation, "no activation of the table follows it directly"),
        (WeightedSum, "no activation of the table follows it directly"),
    ],
)
def test_what_cannot_be_proven_stays(kind: type[Doubtful], reason: str) -> None:
    model, report = fuse(kind())
    assert report.skipped == {"norm": reason}
    assert type(model) is kind and type(model.norm) is nn.BatchNorm2d


def test_shared_hooked_and_parametrized_norms_stay() -> None:
    norm = nn.BatchNorm2d(4)
    assert set(fuse(nn.Sequential(norm, nn.ReLU(), norm))[1].skipped.values()) == {"it is shared"}
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
