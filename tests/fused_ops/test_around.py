"""What a forward finds around it: where something else stands there later, a fused model goes by that."""

from __future__ import annotations

import copy
import enum
import io
import sys
from math import sqrt
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from fused_ops import explain, fuse

X = torch.randn(2, 4, 5, 5)
SCALE = 2.0
SCALES = (2.0, 3.0)
HERE = sys.modules[__name__]


class Settings:
    scale = 2.0
    sizes: ClassVar[list[float]] = [2.0]
    table = torch.tensor(2.0)

    @classmethod
    def shift(cls, x: Tensor) -> Tensor:
        return x + 1


class Mode(enum.Enum):
    sum = 1


def twice(x: Tensor) -> Tensor:
    return 2 * x


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))

    def shift(self, x: Tensor) -> Tensor:
        return x + 1


class Constant(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * SCALE


class Several(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(x))
        for scale in SCALES:
            x = torch.mul(x, scale)
        return x


class Attribute(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * Settings.scale


class ClassMethod(Base):
    def forward(self, x: Tensor) -> Tensor:
        return Settings.shift(self.act(self.norm(x)))


class Helper(Base):
    def forward(self, x: Tensor) -> Tensor:
        return twice(self.act(self.norm(x)))


class OfTorch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.act(self.norm(x))) * torch.pi


class Super(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().shift(x))


CHANGES: list[tuple[type[nn.Module], Any, str, Any]] = [
    (Constant, HERE, "SCALE", 3.0),
    (Constant, HERE, "SCALE", torch.arange(5.0)),
    (Several, HERE, "SCALES", (2.0, 3.0, 4.0)),
    (Several, HERE, "SCALES", (2.0,)),
    (Attribute, Settings, "scale", 3.0),
    (Attribute, HERE, "Settings", type("Other", (), {"scale": 3.0})),
    (ClassMethod, Settings, "shift", lambda x: x - 1),
    (Helper, HERE, "twice", lambda x: 5 * x),
    (OfTorch, F, "softplus", F.logsigmoid),
    (OfTorch, torch, "pi", 3),
    (Super, Base, "forward", lambda self, x: self.norm(x)),
    (Super, Base, "shift", lambda self, x: x * x),
]


@pytest.mark.parametrize(("kind", "owner", "name", "value"), CHANGES)
def test_what_a_forward_finds_around_it_may_change(
    kind: type[nn.Module], owner: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = kind()
    model, report = fuse(original)
    assert report.fused == {"norm": "relu"}
    saved = io.BytesIO()
    torch.save(model, saved)

    def load() -> nn.Module:
        saved.seek(0)
        return torch.load(saved, weights_only=False)

    assert type(load()) is type(model)
    for fused in (model, copy.deepcopy(model), load()):
        assert len(explain(fused, X)) == 1
        torch.testing.assert_close(fused(X), original(X))
    torch._dynamo.reset()
    compiled, unfused = (torch.compile(net, backend="eager", fullgraph=True) for net in (model, original))
    torch.testing.assert_close(compiled(X), unfused(X))
    monkeypatch.setattr(owner, name, value)
    for fused in (model, copy.deepcopy(model), load()):
        torch.testing.assert_close(fused(X), original(X))
    # torch.compile does not see all that changes in classes, of a recording more than of the original.
    assert any(torch.allclose(compiled(X), net(X)) for net in (unfused, original))
    model, _ = fuse(original)
    torch.testing.assert_close(model(X), original(X))
    monkeypatch.undo()
    torch.testing.assert_close(model(X), original(X))


def test_a_function_of_the_same_name_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Helper()
    model, _ = fuse(original)
    known: dict[str, Any] = {"__name__": __name__}
    exec("def twice(x):\n    return 5 * x", known)
    monkeypatch.setattr(HERE, "twice", known["twice"])
    for fused in (model, copy.deepcopy(model), copy.copy(model)):
        torch.testing.assert_close(fused(X), original(X))


def test_a_tensor_that_equals_a_number_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = fuse(Constant())
    learnt = nn.Parameter(torch.tensor(SCALE))
    monkeypatch.setattr(HERE, "SCALE", learnt)
    model(X).sum().backward()
    assert learnt.grad is not None


class Sizes(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * Settings.sizes[0]


class Table(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * Settings.table


def counted(x: Tensor) -> Tensor:
    return x


counted.scale = 2.0  # type: ignore[attr-defined]


class OfFunction(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * counted.scale  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "what"),
    [(Sizes, "Settings.sizes"), (Table, "Settings.table"), (OfFunction, "counted.scale")],
)
def test_what_may_change_and_be_the_same_object_stays(kind: type[nn.Module], what: str) -> None:
    reason = f"forward, which runs in the forward, uses {what}, which may change"
    assert fuse(kind())[1].skipped == {"norm": reason}


class Fixed(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = cat([self.act(self.norm(x)), x.to(torch.float32)], 1) * Mode.sum.value * sqrt(4.0)
        return F.interpolate(x, scale_factor=float(len(Mode)))


def test_a_module_that_is_not_imported_by_its_name_has_nothing_that_could_be_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(fuse(Fixed())[1].fused) == 1
    monkeypatch.delitem(sys.modules, __name__)
    assert fuse(Constant())[1].skipped == {
        "norm": "forward, which runs in the forward, uses SCALE, which may change"
    }
    assert len(fuse(OfTorch())[1].fused) == 1
