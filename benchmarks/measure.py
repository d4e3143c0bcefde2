"""How time is taken: all providers of a case in one process, in turn, many rounds, ratios within a round.

What slows the machine for a while (another program, heat, a neighbour in the same box) then slows all
providers alike, and a ratio of two times of one round stays what it is. In every round

* the order is drawn anew, so that nobody always follows the same predecessor;
* twice the second-level cache is overwritten before each sample, so that no provider finds its inputs warmer
  than another; larger caches may hold them, as they do between the layers of a network;
* what belongs to the sample but not to its time (the forward of a backward) runs before the clock starts;
* calls too short for the clock are repeated within one sample; those find their inputs warm.

The garbage collector is off while the clock runs.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SHORTEST_SAMPLE = 100e-6  # seconds; a sample lasts at least this long where calls can be repeated
WARM_UP_CALLS = 3
WARM_UP_SECONDS = 0.05


@dataclass(frozen=True)
class Runner:
    """How one provider does a case's work: ``run(prepare())`` is one call, and only ``run`` is timed.

    ``around`` makes the context in which both happen (gradients off, a backend chosen).
    """

    run: Callable[[Any], object]
    prepare: Callable[[], Any] | None = None
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def once(self) -> object:
        """One call, untimed."""
        with self.around():
            return self.run(self.prepare() if self.prepare else None)


@dataclass(frozen=True)
class Effort:
    """How long to measure one case: about ``seconds``, within the limits on rounds."""

    seconds: float = 4.0
    min_rounds: int = 7
    max_rounds: int = 101


@dataclass
class Samples:
    """Seconds per call of each provider, round by round; and the error of each one that failed."""

    times: dict[str, list[float]] = field(default_factory=dict)
    loops: dict[str, int] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)


def interleave(runners: Mapping[str, Runner], effort: Effort, device: str = "cpu", seed: int = 0) -> Samples:
    """Measure all runners side by side. A runner that raises is left out, and its exception is kept."""
    samples = Samples()
    estimates = {}
    for name, runner in runners.items():
        try:
            estimates[name] = _warm_up(runner, device)
        except Exception as error:  # a failing provider must not cost the others their result
            samples.failures[name] = error
    if not estimates:
        return samples
    for name, (call, _) in estimates.items():
        repeats = runners[name].prepare is None and call < SHORTEST_SAMPLE
        samples.loops[name] = math.ceil(SHORTEST_SAMPLE / max(call, 1e-7)) if repeats else 1
        samples.times[name] = []
    evict = make_evictor(device)
    _, eviction = _timed(evict, device)
    round_seconds = sum(
        call * samples.loops[name] + prepare + eviction for name, (call, prepare) in estimates.items()
    )
    rounds = round(effort.seconds / round_seconds)
    order, draw = list(estimates), random.Random(seed)
    for _ in range(min(max(rounds, effort.min_rounds), effort.max_rounds)):
        draw.shuffle(order)
        for name in order:
            samples.times[name].append(_sample(runners[name], samples.loops[name], evict, device))
    return samples


def _warm_up(runner: Runner, device: str) -> tuple[float, float]:
    """Seconds of a call and of its preparation; compiles, fills caches and starts threads on the way."""
    began = time.perf_counter()
    calls, best, prepare = 0, math.inf, 0.0
    with runner.around():
        while calls < WARM_UP_CALLS or (time.perf_counter() - began < WARM_UP_SECONDS and calls < 100):
            argument, prepare = _timed(runner.prepare, device) if runner.prepare else (None, 0.0)
            _, seconds = _timed(lambda argument=argument: runner.run(argument), device)
            best = min(best, seconds)
            calls += 1
    return best, prepare


def _sample(runner: Runner, loops: int, evict: Callable[[], object], device: str) -> float:
    with runner.around():
        argument = runner.prepare() if runner.prepare else None
        evict()
        run = runner.run

        def repeat() -> None:
            for _ in range(loops):
                run(argument)

        collecting = gc.isenabled()
        gc.disable()
        try:
            _, seconds = _timed(repeat, device)
        finally:
            if collecting:
                gc.enable()
    return seconds / loops


def _timed(function: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result of a call and its seconds; on CUDA those between two events around it on the stream."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        result = function()
        end.record()
        torch.cuda.synchronize()
        return result, start.elapsed_time(end) / 1e3
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def make_evictor(device: str) -> Callable[[], object]:
    """A function that overwrites twice the second-level cache (on CUDA: the card's last level)."""
    if device == "cuda":
        size = 2 * torch.cuda.get_device_properties(0).L2_cache_size
    else:
        size = 2 * second_level_cache() * torch.get_num_threads()
    buffer = torch.empty(size // 4, device=device)
    return lambda: buffer.add_(1.0)


def second_level_cache() -> int:
    """Bytes of a core's second-level cache, 2 MiB where the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
    except OSError:
        return 2 << 20
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)


# --- statistics ---------------------------------------------------------------------------------------------


def percentile(values: list[float], fraction: float) -> float:
    """The value below which ``fraction`` of the values lie, linear between neighbours."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def spread(values: list[float]) -> dict[str, float]:
    """Median, p20 and p80."""
    return {
        "median": percentile(values, 0.5),
        "p20": percentile(values, 0.2),
        "p80": percentile(values, 0.8),
    }


def ratio(times: list[float], base: list[float]) -> dict[str, float]:
    """Median, p20 and p80 of the rounds' ratios."""
    return spread([ours / theirs for ours, theirs in zip(times, base, strict=True)])


class ReplayTimer:
    """A clock for pytest-benchmark that shows durations measured before.

    pytest-benchmark times one function after another, which cannot be interleaved. So a case is measured as a
    whole, and then each provider's test runs an empty function under this clock: from the start to the end of
    each round it advances by the next loaded sample. The table, the statistics and the JSON are thus
    pytest-benchmark's own.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._samples: list[float] = []
        self._running = False

    def load(self, samples: list[float]) -> None:
        self._samples, self._running = list(reversed(samples)), False

    def __call__(self) -> float:
        if self._running:
            self._now += self._samples.pop()
        self._running = not self._running
        return self._now
