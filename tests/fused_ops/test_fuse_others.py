"""Fusing models that hold more than ordinary modules: TorchScript, torch.fx, lazy layers; and on a card."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import random
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fused_ops import explain, fuse, recording, straight_code
from fused_ops.fuse import Fused

X = torch.randn(2, 4, 5, 5)


def chain(*first: nn.Module) -> nn.Sequential:
    return nn.Sequential(*first, nn.BatchNorm2d(4), nn.ReLU())


class Block(nn.Module):
    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv or nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


@pytest.mark.parametrize("compiled", [torch.jit.script, functools.partial(torch.jit.trace, example_inputs=X)])
@pytest.mark.parametrize("kind", [chain, Block])
def test_parts_in_torchscript_are_parts_like_others(compiled: Callable, kind: Callable) -> None:
    part = compiled(kind().eval())
    model, report = fuse(part)
    assert not report.fused and not report.skipped
    torch.testing.assert_close(model(X), part(X))
    original = kind(part)
    model, report = fuse(original)
    assert len(report.fused) == 1
    torch.testing.assert_close(model(X), original(X))


def test_what_torch_fx_wrote_stays_and_can_be_copied() -> None:
    original = fx.symbolic_trace(nn.Sequential(Block(), chain()))
    model, report = fuse(original)
    reason = "torch.fx wrote the forward it is called in; fuse a model before that"
    assert report.fused == {} and report.skipped == {"0.norm": reason, "1.0": reason}
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    torch._dynamo.reset()
    for way in (
        copy.deepcopy(model),
        torch.load(buffer, weights_only=False),
        torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True),
    ):
        torch.testing.assert_close(way(X), original(X))


def test_layers_may_learn_their_sizes_later() -> None:
    model, report = fuse(Block(nn.LazyConv2d(4, 1)))
    assert report.fused == {"norm": "relu"}
    torch.testing.assert_close(model(X), torch.relu(model.norm(model.conv(X))))
    assert len(explain(model, X)) == 1


def test_each_kind_of_block_compiles_as_often_as_torch_allows() -> None:
    class Twice(Block):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * torch.relu(self.norm(self.conv(x)))

    sizes: list[list[object]] = []

    def keep(module: fx.GraphModule, inputs: list[object]) -> fx.GraphModule:
        sizes.append([x.shape for x in inputs if isinstance(x, Tensor) and x.dim() == 4 and x.size(0) == 2])
        return module

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        for kind, x in ((Block, X), (Twice, X[..., :3])):
            model, _ = fuse(kind())
            model.compile(backend=keep, fullgraph=True)
            model(x)
    assert sizes == [[(2, 4, 5, 5)], [(2, 4, 5, 3)]]  # which are known, as no block has seen others


def test_a_traceback_shows_the_lines_that_ran() -> None:
    model, _ = fuse(Block())
    with pytest.raises(RuntimeError) as failure:
        model(X[:, :3])
    lines = [frame.line for frame in traceback.extract_tb(failure.tb) if "<recorded" in frame.filename]
    assert lines == ["return recorded(self, *inputs, **named)", "conv = self.conv(x);  x = None"]


def test_who_makes_a_class_of_a_fused_module_s_keeps_it_in_copies() -> None:
    class Doubled:
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)  # type: ignore[misc]

    original = Block()
    model, _ = fuse(original)
    for module in (original, model):
        kind = type(module)
        module.__class__ = type(f"Doubled{kind.__name__}", (Doubled, kind), {})
    for fused in (model, copy.deepcopy(model), copy.copy(model)):
        assert len(explain(fused, X)) == 1
        torch.testing.assert_close(fused(X), original(X))
    assert isinstance(type(model)(), Doubled)


def test_other_threads_use_their_models_and_fuse_others_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """While torch.fx records, it stands in the place of nn.Module's own methods."""
    original, other = nn.Sequential(Block(), Block()), Block().eval()
    before, of_module = other(X), (nn.Module.__call__, nn.Module.__getattr__, nn.Module.__getattribute__)
    created, begun = recording._Tracer.create_node, threading.Event()

    with ThreadPoolExecutor(2) as threads:
        uses: list[Future[Tensor]] = []
        fused: list[Future[Fused]] = []

        def create_node(self: Any, *args: Any, **kwargs: Any) -> fx.Node:
            if not begun.is_set():
                begun.set()
                fused.append(threads.submit(fuse, original))
                wait(fused, timeout=0.5)
                uses.append(threads.submit(other, X))
                wait(uses)
            return created(self, *args, **kwargs)

        create_node.__code__ = create_node.__code__.replace(co_filename="<frozen>")  # no part of a forward
        monkeypatch.setattr(recording._Tracer, "create_node", create_node)
        reports = [fuse(original).report, fused[0].result().report]
    assert [len(report.fused) for report in reports] == [2, 2]
    torch.testing.assert_close(uses[0].result(), before)
    assert of_module == (nn.Module.__call__, nn.Module.__getattr__, nn.Module.__getattribute__)


def test_tensors_are_made_where_the_forward_runs_not_where_it_was_fused() -> None:
    class Places(Block):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.norm(self.conv(x))) + torch.arange(x.shape[3])

    original = Places()
    with torch.device("meta"):
        model, report = fuse(original)
        assert torch.get_default_device().type == "meta"
    assert len(report.fused) == 1
    torch.testing.assert_close(model(X), original(X))


def test_a_forward_that_is_no_function_stays() -> None:
    class Called:
        def __get__(self, owner: nn.Module | None, kind: type) -> object:
            return self if owner is None else functools.partial(Block.forward, owner)

    class Odd(Block):
        forward = Called()  # type: ignore[assignment]

    original = Odd()
    model, report = fuse(original)
    assert report.skipped == {"norm": "the forward it is called in is not its class's own"}
    torch.testing.assert_close(model(X), original(X))


def noise() -> float:
    return random.random()


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), noise])
def test_fusing_draws_no_random_numbers(draw: Callable[[], Tensor | float]) -> None:
    class Noisy(Block):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.norm(x)) * draw()

    original = Noisy()
    before = torch.get_rng_state(), random.getstate()
    assert fuse(original).report.fused == {}
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_threads_read_sources_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    filters, together = list(warnings.filters), threading.Barrier(2)

    def compile_slowly(*args: Any, **options: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        return compile(*args, **options)

    monkeypatch.setattr(straight_code, "compile", compile_slowly, raising=False)
    straight_code._compiled.cache_clear()
    with ThreadPoolExecutor(2) as threads:
        fused = [threads.submit(fuse, Block()) for _ in range(2)]
    assert [len(found.result().report.fused) for found in fused] == [1, 1]
    assert together.broken  # nobody came to the one who waited
    assert warnings.filters == filters


def test_numbers_that_another_thread_draws_meanwhile_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    created, drawn = recording._Tracer.create_node, list[float]()

    def draw() -> None:
        drawn.extend((torch.rand(1).item(), random.random()))

    with ThreadPoolExecutor(1) as thread:

        def create_node(self: Any, *args: Any, **kwargs: Any) -> fx.Node:
            wait([thread.submit(draw)])
            return created(self, *args, **kwargs)

        create_node.__code__ = create_node.__code__.replace(co_filename="<frozen>")  # no part of a forward
        monkeypatch.setattr(recording._Tracer, "create_node", create_node)
        assert len(fuse(Block()).report.fused) == 1
    draw()
    assert len(drawn) > 8 and len(set(drawn)) == len(drawn)


class Added(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(x) + x)


class Casts(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4, affine=False), nn.InstanceNorm2d(4)], ids=str)
def test_autocast_of_a_card_gives_the_dtype_that_torch_gives(norm: nn.Module, autocast: bool) -> None:
    """It has torch compute group norms, but no others, in float32. The tensors only say they lie there."""
    models = [(model, fuse(model).model) for model in (nn.Sequential(norm, nn.SiLU()), Added(norm))]
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", autocast)
    try:
        with FakeTensorMode():
            x = torch.empty(2, 4, 5, 5, device="cuda", dtype=torch.bfloat16)
            for stock, fused in models:
                with Casts() as ours:
                    found = fused(x)
                with Casts() as theirs:
                    expected = stock(x)
                assert ours.count == theirs.count
                assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert expected.dtype == (
                torch.float32 if autocast and isinstance(norm, nn.GroupNorm) else torch.bfloat16
            )
    finally:
        torch.set_autocast_enabled("cuda", before)
