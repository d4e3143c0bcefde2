"""How time is taken: on the CPU for a dry run, and on a pretended card whose clock the test sets."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import steps, timing
from benchmarks.gpu.timing import LOOPS, ROUNDS, Timed, time_all
from benchmarks.measure import Runner


@dataclass
class Card:
    """A stream whose time passes as calls say; what is captured runs when it is replayed."""

    now: float = 0.0  # ms
    recording: list[float] | None = None
    warm: bool = False
    refuses_capture: bool = False
    calls: int = 0
    evictions: int = 0
    slept: list[int] = field(default_factory=list)
    streams: list[Any] = field(default_factory=list)
    ended: list[tuple[int, str]] = field(default_factory=list)

    def work(self, milliseconds: float) -> None:
        self.calls += 1
        if self.recording is not None:
            self.recording.append(milliseconds)
        else:
            self._pass(milliseconds)

    def _pass(self, milliseconds: float) -> None:
        """Ten times as long where the cache is cold."""
        self.now += milliseconds * (1 if self.warm else 10)
        self.warm = True

    def evict(self) -> None:
        self.evictions += 1
        self.warm = False

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any) -> Iterator[None]:
        if self.refuses_capture:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.recording = []
        yield
        graph.calls, self.recording = self.recording, None

    def event(self, enable_timing: bool) -> Any:
        event = SimpleNamespace(at=0.0)
        event.record = lambda: setattr(event, "at", self.now)
        event.synchronize = lambda: None
        event.elapsed_time = lambda end: end.at - event.at
        return event

    def new_graph(self) -> Any:
        graph = SimpleNamespace(calls=[])
        graph.replay = lambda: [self._pass(each) for each in graph.calls]
        return graph


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    found = Card()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Event": found.event, "CUDAGraph": found.new_graph, "graph": found.graph, "synchronize": lambda: None,
        "Stream": lambda: stream, "current_stream": lambda: stream,
        "stream": lambda given: contextlib.nullcontext(), "set_stream": found.streams.append,
        "graph_pool_handle": lambda: "a pool", "current_device": lambda: 0,
        "_sleep": found.slept.append,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    end = "_cuda_endAllocateToPool"
    monkeypatch.setattr(torch._C, end, lambda *which: found.ended.append(which), raising=False)
    monkeypatch.setattr(timing, "make_evictor", lambda device: found.evict)
    return found


def runner(work: Callable[[], object], **options: Any) -> Runner:
    return Runner(lambda _: work(), **options)


def test_captured_calls_are_timed_warm_and_cold(card: Card) -> None:
    found, errors = time_all({"one": runner(lambda: card.work(2.0))}, "cuda", False)
    assert not errors and found["one"].captured
    assert found["one"].warm == pytest.approx([2e-3] * ROUNDS)
    assert found["one"].cold == pytest.approx([20e-3] * ROUNDS)
    assert card.evictions == ROUNDS
    assert card.slept == [timing.QUEUE_CYCLES] * 2 * ROUNDS  # all is queued before the clock starts
    record = found["one"].record()
    assert (record["warm_us"], record["cold_us"], record["captured"]) == (2000, 20000, True)
    assert record["host_us"] > 0


def test_the_hosts_time_is_taken_a_few_calls_at_a_time(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """More launches than a card's queue holds would wait for the card."""
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append(card.calls))
    time_all({"one": runner(lambda: card.work(1.0))}, "cuda", False)
    between = [after - before for before, after in itertools.pairwise(calls)]
    assert max(between) == timing.HOST_CALLS and between.count(timing.HOST_CALLS) == timing.HOST_ROUNDS


def test_what_cannot_be_captured_is_launched_and_marked(
    card: Card, capsys: pytest.CaptureFixture[str]
) -> None:
    card.refuses_capture = True
    found, errors = time_all({"one": runner(lambda: card.work(1.0))}, "cuda", False)
    assert not errors and not found["one"].captured
    assert found["one"].warm == pytest.approx([1e-3] * ROUNDS)
    host = found["one"].host
    assert host and min(card.slept) >= timing.QUEUE_CYCLES + int(timing.CLOCK * LOOPS * host)  # to be queued
    # What torch.cuda.graph leaves undone, so that the next provider can be captured.
    assert card.streams == [torch.cuda.current_stream()] and card.ended == [(0, "a pool")]
    assert "not captured: operation not permitted when stream is capturing\n" in capsys.readouterr().out


def test_a_failing_provider_costs_the_others_nothing(card: Card) -> None:
    def fail() -> None:
        raise ValueError("no such kernel\nmore")

    runners = {"bad": runner(fail), "good": runner(lambda: card.work(1.0))}
    found, errors = time_all(runners, "cuda", False)
    assert errors == {"bad": "ValueError: no such kernel"}
    assert list(found) == ["good"] and len(found["good"].cold) == ROUNDS


def test_nor_does_one_that_fails_while_it_is_timed(card: Card) -> None:
    def fail_once_warm() -> None:
        card.work(1.0)
        if card.evictions:
            raise RuntimeError("an illegal memory access was encountered")

    card.refuses_capture = True
    runners = {"bad": runner(fail_once_warm), "good": runner(lambda: card.work(1.0))}
    found, errors = time_all(runners, "cuda", False)
    assert errors == {"bad": "RuntimeError: an illegal memory access was encountered"}
    assert list(found) == ["good"] and len(found["good"].cold) == ROUNDS


def test_calls_run_in_their_context_with_what_was_prepared(card: Card) -> None:
    inside: list[bool] = []
    state = {"in": False}

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        state["in"] = True
        yield
        state["in"] = False

    seen: list[int] = []

    def run(argument: int) -> None:
        inside.append(state["in"])
        seen.append(argument)
        card.work(1.0)

    time_all({"one": Runner(run, prepare=lambda: 7, around=around)}, "cuda", False)
    assert all(inside) and set(seen) == {7}
    assert card.calls >= 1 + LOOPS


def test_a_dry_run_takes_two_samples_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    found, errors = time_all({"one": runner(lambda: calls.append(1))}, "cpu", True)
    assert not errors and len(found["one"].warm) == len(found["one"].cold) == 2
    assert found["one"].host is None and "host_us" not in found["one"].record()


def test_medians_and_spreads() -> None:
    record = Timed(warm=[1e-6, 2e-6, 3e-6], cold=[], captured=True).record()
    assert record["warm_us"] == 2 and record["warm_p20_us"] == pytest.approx(1.4)
    assert "cold_us" not in record


def test_steps_are_compared_as_the_host_starts_them_and_as_graphs() -> None:
    fused = {"provider": "fused", "ms": 40.0, "peak_bytes": 3, "graph_ms": 20.0}
    eager = {"provider": "eager", "ms": 60.0, "peak_bytes": 4, "graph_ms": 50.0}
    compiled = {"provider": "compile", "ms": 44.0, "peak_bytes": 6, "not_captured": "it waits"}
    assert steps.ratios([fused, eager, compiled], dry=False) == {
        "x_eager": 1.5, "x_eager_as_graphs": 2.5, "peak_to_eager": 0.75, "x_compile": 1.1,
        "peak_to_compile": 0.5,
    }  # fmt: skip


def test_a_step_becomes_a_graph_or_says_why_not(card: Card) -> None:
    group: dict[str, Any] = {"capturable": False}
    step = SimpleNamespace(optimisers={"generator": SimpleNamespace(param_groups=[group])})
    assert steps.as_graph(step, lambda: card.work(1.0), "cuda")["graph_ms"] >= 0 and group["capturable"]
    assert card.now == 10.0 + 1.0 * (1 + steps.STEPS)  # once before, then replayed
    card.refuses_capture = True
    found = steps.as_graph(step, lambda: card.work(1.0), "cuda")
    assert found == {"not_captured": "RuntimeError: operation not permitted when stream is capturing"}
