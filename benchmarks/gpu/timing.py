"""How time is taken on a card: calls captured in CUDA graphs, so that the host's launches are not in it.

Warm: a graph of several calls in a row, which find in the L2 cache what the one before left there. Cold: a
graph of one call, before each replay of which twice the L2 cache is overwritten. What cannot be captured is
launched as it is, queued behind the overwriting, and marked so. All providers of a case are timed in turn,
round by round; medians are kept.

Without a card (a dry run) calls are timed by the clock, once or twice, to see that the code runs.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.stages import in_a_line
from benchmarks.measure import Runner, make_evictor, percentile

ROUNDS, LOOPS, WARM_UP = 15, 8, 3
HOST_CALLS, HOST_ROUNDS = 10, 5  # a card's queue holds 1024 launches; then the host waits for it
CLOCK = 2e9  # of the card at most, some
QUEUE_CYCLES = 400_000  # some 0.2 ms: enough to start a graph


@dataclass
class Timed:
    """Seconds per call of one provider, and how they were taken."""

    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    captured: bool = False
    host: float | None = None

    def record(self) -> dict[str, Any]:
        """Medians and spreads in microseconds."""
        found: dict[str, Any] = {"captured": self.captured}
        for name, values in (("warm", self.warm), ("cold", self.cold)):
            if values:
                found |= {
                    f"{name}_us": _short(percentile(values, 0.5)),
                    f"{name}_p20_us": _short(percentile(values, 0.2)),
                    f"{name}_p80_us": _short(percentile(values, 0.8)),
                }
        if self.host is not None:
            found["host_us"] = _short(self.host)
        return found


def _short(seconds: float) -> float:
    return float(f"{1e6 * seconds:.4g}")


def time_all(
    runners: Mapping[str, Runner], device: str, dry: bool
) -> tuple[dict[str, Timed], dict[str, str]]:
    """Time all runners side by side; the second result has the error of each one that failed."""
    found: dict[str, Timed] = {}
    errors: dict[str, str] = {}
    samplers: dict[str, _Sampler] = {}
    for name, runner in runners.items():
        try:
            samplers[name] = _Sampler(runner, device)
            found[name] = Timed(captured=samplers[name].captured, host=samplers[name].host)
        except Exception as error:  # a failing provider must not cost the others their result
            errors[name] = in_a_line(error)
    evict = make_evictor(device)
    order, draw = list(samplers), random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(2 if dry else ROUNDS):
            draw.shuffle(order)
            for name in tuple(order):
                try:
                    found[name].warm.append(samplers[name].warm())
                    found[name].cold.append(samplers[name].cold(evict))
                except Exception as error:  # as above
                    errors[name] = in_a_line(error)
                    order.remove(name)
                    del found[name]
    finally:
        if collecting:
            gc.enable()
    return found, errors


@contextlib.contextmanager
def capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """torch.cuda.graph, after a failure of which other graphs can still be captured.

    Where the end of a capture raises, torch leaves its own stream the current one, and its allocator in the
    belief that the capture goes on: every later capture in the process fails.
    """
    stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool):
            yield
    except Exception:
        torch.cuda.set_stream(stream)
        with contextlib.suppress(RuntimeError):  # it knows already
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        raise


def captured(call: Callable[[], object], times: int = 1) -> Callable[[], None]:
    """What replays so many calls as one CUDA graph. One is made before, beside the current stream.

    Raises RuntimeError where something in it cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        for _ in range(times):
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay


class _Sampler:
    """One provider's call, captured where it can be."""

    def __init__(self, runner: Runner, device: str) -> None:
        self.runner, self.device = runner, device
        self.captured, self.host, self.cycles = False, None, QUEUE_CYCLES
        with runner.around():
            if device == "cpu":
                self._call()
                self.one = self.many = self._call
                self.loops = 1
                return
            self.loops = LOOPS
            for _ in range(WARM_UP):
                self._call()
            self.host = self._host_seconds()
            try:
                self.one, self.many = (captured(self._call, times) for times in (1, LOOPS))
                self.captured = True
            except RuntimeError as error:  # a synchronisation, or memory from elsewhere, within the call
                torch.cuda.synchronize()
                print(f"not captured: {str(error).partition(chr(10))[0]}")
                self.one, self.many = self._call, self._call_many
                self.cycles += int(2 * CLOCK * LOOPS * self.host)

    def _call(self) -> object:
        return self.runner.run(self.runner.prepare() if self.runner.prepare else None)

    def _call_many(self) -> None:
        for _ in range(LOOPS):
            self._call()

    def _host_seconds(self) -> float:
        """What the host takes to start a call, without waiting for the card."""
        rounds = []
        for _ in range(HOST_ROUNDS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(HOST_CALLS):
                self._call()
            rounds.append((time.perf_counter() - began) / HOST_CALLS)
        torch.cuda.synchronize()
        return percentile(rounds, 0.5)

    def warm(self) -> float:
        with self.runner.around():
            self.one()
            return self._timed(self.many) / self.loops

    def cold(self, evict: Callable[[], object]) -> float:
        with self.runner.around():
            evict()
            return self._timed(self.one)

    def _timed(self, function: Callable[[], object]) -> float:
        if self.device == "cpu":
            began = time.perf_counter()
            function()
            return time.perf_counter() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(self.cycles)  # so that the host has queued all before the clock starts
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
