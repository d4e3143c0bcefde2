"""Forwards of which a recording would not tell all: fuse leaves them as they are, with the reason."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import linecache
import operator
import random
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import is_initialized
from torch.utils.checkpoint import checkpoint

from fused_ops.fuse import fuse


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


class ByKeyword(Doubtful):
    def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
        return self.act(self.norm(x) + other)


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


class Named(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(input=x))


class SumTwice(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x) + x
        return self.act(y) + y


class ReadsStatistics(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y + self.norm.running_mean.mean())  # which that call has moved


class Identifies(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * id(self)


class AsksForType(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * isinstance(x, Tensor)  # x is none while it is recorded


remember = [].append


class Remembers(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        _ = remember(1)
        return self.act(self.norm(x))


class WeightedSum(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(torch.add(self.norm(x), x, alpha=2))


class WritesThroughView(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x[:, :2].mul_(0)
        return self.act(y + x)


class WritesIntoWhatIsPassedOn(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.drop(x))
        x.mul_(0)
        return self.act(y + x)


class Doubles(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y + y)


class WritesIntoWhatItIsAViewOf(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.view(-1, 4, 5, 5))
        x.mul_(0)
        return self.act(y + x)


class Partly(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = 2 * x
        return self.act(self.norm(x))


class Decorated(Doubtful):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x))


class Counts(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.act(self.norm(x))


class Keeps(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[Tensor]] = {"x": []}

    def forward(self, x: Tensor) -> Tensor:
        self.seen["x"].append(x)
        return self.act(self.norm(x))


class KeepsQuietly(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        _ = self.seen.update(x=[])
        return self.act(self.norm(x))


class SwitchesQuietly(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        _ = operator.methodcaller("eval")(self.norm)
        return self.act(self.norm(x))


class Prints(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        print(x.shape)
        return self.act(self.norm(x))


MORE = "forward, which runs in the forward, does more than compute"


class SharesItsNorm(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(4, 4, 1), self.norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.down(x)  # runs the norm, which keeps statistics in the order of its calls
        return self.act(y + z)


class WritesBetween(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x.mul_(0.5)
        return self.act(y) + x


class NamedAdd(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.add = nn.Bilinear(5, 5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.add(self.norm(x), x))


class Ordered(Doubtful):
    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(out=self.act(self.norm(x)))


class HandsOver(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        return self.act(self.norm(self.act(x, kept)))


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def reverse(x: Tensor) -> Tensor:
    return Reverse.apply(x)


class Reverses(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(reverse(x)))


class Draws(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * torch.rand(1)


class Chooses(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * random.choice((1, 2))


class Switches(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        self.norm.eval()
        return self.act(self.norm(x))


class Stores(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        self.norm.weight.data = self.norm.weight.data.clamp(min=0)
        return self.act(self.norm(x))


class Checkpoints(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(checkpoint(self.act, x, use_reentrant=False)))


class Lists(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.acts = [self.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.acts[0](self.norm(x))  # stays the same where another is set in act's place


class ListsWeights(Doubtful):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.scales = {"first": self.scale}

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) * self.scales["first"]


class AsksForGradients(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.act(self.norm(x)), 0.5, torch.is_grad_enabled())


class AsksForAutocast(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)).to(torch.get_autocast_dtype("cpu"))


class AsksForProcesses(Doubtful):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(x)) / (1 + is_initialized())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (AsksForGradients, f"{MORE} (is_grad_enabled)"),
        (AsksForAutocast, f"{MORE} (get_autocast_dtype)"),
        (AsksForProcesses, f"{MORE[:-23]} uses is_initialized, which may change"),
        (Lists, "the forward it is called in reads acts, which cannot be watched"),
        (ListsWeights, "the forward it is called in reads scales, which cannot be watched"),
        (WritesThroughView, "its input may be changed before what follows"),
        (WritesIntoWhatIsPassedOn, "its input may be changed before what follows"),
        (Doubles, "no activation of the table follows it directly"),
        (WritesIntoWhatItIsAViewOf, "its input may be changed before what follows"),
        (Partly, f"{MORE} (With)"),
        (Decorated, "a part of the forward it is called in runs in a context of its own"),
        (Counts, f"{MORE} (writes into an attribute or element)"),
        (Keeps, f"{MORE} (a result is dropped)"),
        (KeepsQuietly, "the forward it is called in changes more than what it returns"),
        (SwitchesQuietly, "the forward it is called in changes more than what it returns"),
        (Named, "it is not called with one tensor"),
        (SumTwice, "the sum of its output and another is used more than once"),
        (ReadsStatistics, "its input may be changed before what follows"),
        (Identifies, f"{MORE} (id)"),
        (AsksForType, "forward, which runs in the forward, branches on more than attributes"),
        (Remembers, f"{MORE[:-23]} uses remember, which may change"),
        (Prints, f"{MORE} (a result is dropped)"),
        (Checkpoints, None),
        (SharesItsNorm, "its input may be changed before what follows"),
        (WritesBetween, "its input may be changed before what follows"),
        (NamedAdd, "no activation of the table follows it directly"),
        (Ordered, "the forward it is called in makes a OrderedDict"),
        (HandsOver, "the forward it is called in hands a container to a module, which may fill it"),
        (Reverses, None),
        (Draws, None),
        (Chooses, f"{MORE[:-23]} uses random, which may change"),
        (Switches, f"{MORE} (a result is dropped)"),
        (Stores, f"{MORE} (data)"),
        (TwoUses, "its output is used 2 times"),
        (TwoCalls, "it is called more than once"),
        (Optional, "the forward it is called in has optional arguments"),
        (ByKeyword, "the forward it is called in has arguments that are given by keyword alone"),
        (Branches, "forward, which runs in the forward, branches on more than attributes"),
        (Training, "the forward it is called in differs between training and evaluation"),
        (Writes, "its input may be changed before what follows"),
        (DataDependent, "forward, which runs in the forward, branches on more than attributes"),
        (OtherActivation, "no activation of the table follows it directly"),
        (WeightedSum, "no activation of the table follows it directly"),
    ],
)
def test_what_cannot_be_proven_stays(kind: type[Doubtful], reason: str) -> None:
    original = kind()
    before = copy.deepcopy(original.state_dict())
    model, report = fuse(original, inplace=True)
    assert set(report.skipped) == {"norm"}
    assert report.skipped["norm"] == reason or reason is None  # None: as torch happens to do it
    assert model is original and type(model) is kind and type(model.norm) is nn.BatchNorm2d
    torch.testing.assert_close(model.state_dict(), before)
    assert getattr(model, "seen", {"x": []}) == {"x": []}


@pytest.mark.parametrize("file", ["<ipython-input-1-0123>", f"{torch.__path__[0]}vision/net.py"])
def test_notebooks_and_packages_beside_torch_are_looked_into(file: str, monkeypatch) -> None:
    source = inspect.getsource(Branches)
    monkeypatch.setitem(linecache.cache, file, (len(source), None, source.splitlines(True), file))
    known = dict(globals())
    exec(compile(source, file, "exec"), known)
    report = fuse(known["Branches"]()).report
    assert report.skipped == {"norm": "forward, which runs in the forward, branches on more than attributes"}


EDITED = """
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        return self.norm(x) if {condition} else self.act(self.norm(x))
"""


@pytest.mark.parametrize(
    "now",
    [
        EDITED.format(condition="self.act is None"),
        "\n" * 20 + EDITED.format(condition="isinstance(x, Tensor)"),
        "x = (\n" * 20,
        None,
    ],
    ids=["another condition", "shifted", "cut off", "gone"],
)
def test_a_file_edited_since_its_import_proves_nothing(
    now: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"edited_{tmp_path.name}"
    file = tmp_path / f"{name}.py"
    file.write_text(EDITED.format(condition="isinstance(x, Tensor)"))
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module(name).Net()
    monkeypatch.delitem(sys.modules, name)
    if now is None:
        file.unlink()
    else:
        file.write_text(now)
    model, report = fuse(network)
    assert report.skipped == {"norm": "the source of forward, which runs in the forward, is not at hand"}
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(model(x), network(x))


def test_classes_of_a_notebook_s_cell_are_read_as_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell lies in linecache alone, is compiled statement by statement, and may await."""
    cell = f"await something()\nimport torch\n{EDITED}".replace("self.act(self", "torch.relu(self")
    cell = cell.format(condition="False")
    lines = cell.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, "<cell 1>", (len(cell), None, lines, "<cell 1>"))
    names: dict[str, Any] = {"__name__": __name__}
    for statement in ast.parse(cell).body[1:]:
        exec(compile(ast.Module([statement], []), "<cell 1>", "exec", dont_inherit=True), names)
    assert fuse(names["Net"]()).report.fused == {"norm": "relu"}


class Nested(Doubtful):
    def __init__(self, inner: Nested | None = None) -> None:
        super().__init__()
        self.last, self.inner = nn.Tanh(), inner

    def compute(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(x))
        return y if self.last is None else self.last(y)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.compute(self.compute(x))


def test_a_method_of_another_module_is_refused_also_after_the_module_s_own() -> None:
    """What it decides by is watched in the module alone."""
    original, x = Nested(Nested()), torch.randn(2, 4, 5, 5)
    model, report = fuse(original)
    assert report.skipped["norm"] == "compute, which runs in the forward, is given a module"
    for module in (original, model):
        module.inner.last = None
    torch.testing.assert_close(model(x), original(x))


def test_children_are_watched_by_name_where_all_are_called() -> None:
    class All(Doubtful):
        def forward(self, x: Tensor) -> Tensor:
            for child in self._modules.values():
                x = child(x)
            return x

    original = All()
    model, report = fuse(original)
    assert report.fused == {"norm": "relu"}
    x = torch.randn(2, 4, 5, 5)
    for module in (original, model):
        module.last = nn.Tanh()
    torch.testing.assert_close(model(x), original(x))


def test_fusing_does_not_get_in_dynamo_s_way() -> None:
    """Where a forward is the first to import it, as checkpointing does, among fx's stand-ins for math."""
    program = """
import torch
from torch import nn
from fused_ops import FusedBatchNormAct2d, fuse

class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        import torch._dynamo
        return torch.relu(self.norm(x))

fuse(Late())
torch.compile(FusedBatchNormAct2d(4), backend="aot_eager", fullgraph=True)(torch.randn(2, 4, 5, 5))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
