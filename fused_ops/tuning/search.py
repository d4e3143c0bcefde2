"""The search for the best launch of a kernel family, for the calls to which the launch tables give one row.

All rows that fit and the neighbours of the best one are tried; a candidate counts only if it computes the
same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from fused_ops import backends, tuning
from fused_ops.triton_support import Card
from fused_ops.tuning.ahead import Compilers

Timer = Callable[[Callable[[], object]], float]
# Why a candidate is dropped. The second kind is a defect, of a kernel of ours or of the compiler.
DID_NOT_RUN, COMPUTED_OTHERWISE = "did not run", "computed otherwise"
GAIN = 0.97  # of the best time so far: what is no better than that is noise
# The values that a parameter may take, in order; the neighbours of the present one are tried.
STEPS: Mapping[str, tuple[int, ...]] = {
    "pixels": (16, 32, 64, 128, 256), "columns": (16, 32, 64, 128, 256), "reset_columns": (16, 32, 64, 128),
    "depth": (16, 32, 64, 128), "block": (32, 64, 128), "warps": (2, 4, 8, 16), "stages": (1, 2, 3, 4, 5),
    "programs": (1, 2, 3, 4, 5, 6, 8), "weight_pixels": (16, 32, 64, 128),
    "weight_warps": (1, 2, 4, 8, 16), "weight_stages": (1, 2, 3, 4), "weight_programs": (1, 2, 3, 4, 6, 8),
    "row": (4096, 8192, 16384, 32768), "row_last": (4096, 8192, 16384), "wanted": (512, 1024, 2048, 4096),
    "row_per_thread": (8, 16, 32, 64), "tile": (1024, 2048, 4096, 8192), "per_thread": (4, 8, 16, 32),
    "per_processor": (2, 4, 6, 8),
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One op on given tensors."""

    name: str
    op: str
    args: tuple[Any, ...]

    def run(self) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = backends.compute(self.op, *self.args)
        return found


@dataclass
class Group:
    """The calls to which the launch tables give one row of a family."""

    family: str
    facts: dict[str, int | str]
    calls: list[Call] = field(default_factory=list)


def best_launch(
    group: Group, card: Card, timer: Timer, compilers: Compilers, left: Callable[[], float]
) -> tuple[Mapping[str, Any] | None, str]:
    """The best launch, None where the present one is, and what was found, with ``left`` seconds to go."""
    present = tuning.choose_row(card.architecture, group.family, **group.facts).launch
    rows = tuning.all_rows(card.architecture, group.family, group.facts)
    others = [row.launch for row in rows if row.launch != present]
    best, best_ratio, tried = present, 1.0, 1
    dropped: Counter[str] = Counter()

    def compile_ahead(names: Sequence[str], *more: Mapping[str, Any]) -> None:
        candidates = [*more, *(near for name in names for near in neighbours(best, name))]
        compilers.compile([partial(_run_all, group, candidate) for candidate in candidates], left())

    def consider(candidate: Mapping[str, Any]) -> None:
        nonlocal best, best_ratio, tried
        tried += 1
        ratio = _time_ratio(group, candidate, expected, base, timer)
        if isinstance(ratio, str):
            dropped[ratio] += 1
        elif ratio < GAIN * best_ratio:
            best, best_ratio = candidate, ratio

    names = list(STEPS)
    compile_ahead(names, present, *others)
    expected = [call.run() for call in group.calls]
    base = [timer(call.run) for call in group.calls]
    for launch in others:
        if left() > 0:
            consider(launch)
    at_hand = present  # the neighbours of this one are compiled
    for place, name in enumerate(names):
        if best is not at_hand:
            compile_ahead(names[place:])
            at_hand = best
        for candidate in neighbours(best, name):
            if left() > 0:
                consider(candidate)
    told = f"{best_ratio:.3f} of the time before ({1e6 * sum(base) / len(base):.1f} us on average)"
    note = f"measured: {told}, {tried} tried" + "".join(f", {count} {why}" for why, count in dropped.items())
    return (None if best == present else best), note


def _run_all(group: Group, candidate: Mapping[str, Any]) -> list[tuple[Tensor, ...]]:
    """The group's calls, by a launch on trial."""
    with tuning.on_trial(group.family, candidate):
        return [call.run() for call in group.calls]


def neighbours(launch: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """The launch with one parameter a step lower, and a step higher."""
    steps = STEPS[name]
    if launch.get(name) in steps:
        place = steps.index(launch[name])
        for near in (place - 1, place + 1):
            if 0 <= near < len(steps):
                yield {**launch, name: steps[near]}


def _time_ratio(
    group: Group, candidate: Mapping[str, Any], expected: Sequence[tuple[Tensor, ...]],
    base: Sequence[float], timer: Timer,
) -> float | str:  # fmt: skip
    """Geometric mean of a candidate's times over those before, or why it is none to take."""
    ratios = []
    try:
        with tuning.on_trial(group.family, candidate):
            for call, results, before in zip(group.calls, expected, base, strict=True):
                if not all(map(_agree, call.run(), results)):
                    return COMPUTED_OTHERWISE
                ratios.append(timer(call.run) / before)
    except Exception:  # too much shared memory, or a tile that the compiler refuses: no candidate
        return DID_NOT_RUN
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same but for another order of summation in low precision (TF32 included)."""
    if one.shape != other.shape:
        return False
    if not one.numel():
        return True
    difference, largest = (one.double() - other.double()).abs().max(), other.double().abs().max()
    return bool(difference <= 2e-2 * largest)
