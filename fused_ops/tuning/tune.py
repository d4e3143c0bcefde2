"""Measures launch parameters and backends on the present card and writes what is best into its table.

``python -m fused_ops tune``. For each kernel family, and each set of facts that the launch tables tell apart,
all rows that fit and the neighbours of the best one are tried on the calls of :data:`.tune_calls.CALLS` that
have these facts; a candidate counts only if it computes the same. Then both GPU backends are timed on every
call. Rows go to the head of the card's table, with what was measured in their notes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fused_ops import backends, tuning
from fused_ops.triton_support import Card, rehearse
from fused_ops.tuning import dispatch

Timer = Callable[[Callable[[], object]], float]
LAUNCHES_SHARE = 0.6  # of the time; the rest is for the choice between backends
GAIN = 0.97  # of the best time so far: what is no better than that is noise
SAMPLES = 15
QUEUE_CYCLES = 2_000_000  # some 1 ms of the card: what is on trial is planned anew at every call
# The values that a parameter may take, in order; the neighbours of the present one are tried.
STEPS: Mapping[str, tuple[int, ...]] = {
    "pixels": (16, 32, 64, 128, 256), "columns": (16, 32, 64, 128, 256), "reset_columns": (16, 32, 64, 128),
    "depth": (16, 32, 64, 128), "block": (32, 64, 128), "warps": (2, 4, 8, 16), "stages": (1, 2, 3, 4, 5),
    "programs": (1, 2, 3, 4, 6, 8), "weight_pixels": (16, 32, 64, 128),
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


@dataclass
class Report:
    """The new rows by family, a line for each decision, what there was no time for, and what raised."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def fail(self, what: str, error: Exception) -> str:
        """Note it; the reason in a line."""
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self.failed.append(f"{what}: {reason}")
        return reason

    def add(self, family: str, facts: Mapping[str, int | str], launch: Mapping[str, Any], note: str) -> None:
        row = {"note": note, "when": dict(facts), "launch": dict(launch)}
        self.rows.setdefault(family, []).append(row)


def tune(
    calls: Sequence[Call], card: Card, timer: Timer, seconds: float, say: Callable[[str], None] = print,
    keep: Callable[[Report], object] = lambda report: None,
) -> Report:  # fmt: skip
    """Measure until done or out of time; ``timer`` gives the seconds of one call of a function.

    ``keep`` gets the report after each line, for the case that the process does not live to return it.
    """
    began, report = time.monotonic(), Report()

    def is_late(share: float, what: str = "") -> bool:
        late = time.monotonic() >= began + share * seconds
        if late and what:
            report.left_out.append(what)
        return late

    def tell(line: str) -> None:
        report.lines.append(line)
        say(line)
        keep(report)

    for group in groups(calls, card):
        title = f"{group.family} {group.facts}"
        if is_late(LAUNCHES_SHARE, title):
            continue
        try:
            with backends.use("triton"):
                launch, note = _best_launch(group, card, timer, lambda: is_late(LAUNCHES_SHARE))
        except Exception as error:  # the present launch does not run on this card, say: others may
            launch, note = None, f"not measured: {report.fail(title, error)}"
        if launch is not None:
            report.add(group.family, group.facts, launch, f"{note}; {card.name}, torch {torch.__version__}")
        tell(f"{title}: {note}")
    with tuning.table_given(card.architecture, merged(tuning.table(card.architecture), report.rows)):
        for call in calls:
            if not is_late(1.0, f"backends of {call.name}"):
                tell(_compare_backends(call, card, timer, report))
    return report


def groups(calls: Sequence[Call], card: Card) -> list[Group]:
    """The calls by the rows that the launch tables give them; those that Triton refuses are left out.

    Their launches are rehearsed: to compile the kernels of all would take the time for those that are tuned.
    """
    found: dict[tuple[str, str], Group] = {}
    for call in calls:
        if backends.refusal(call.op, "triton", call.args):
            continue
        with backends.use("triton"), tuning.asked() as rows, rehearse(card):
            call.run()
        for family, facts, _ in rows:
            group = found.setdefault((family, repr(facts)), Group(family, facts))
            if call not in group.calls:
                group.calls.append(call)
    return list(found.values())


def _best_launch(
    group: Group, card: Card, timer: Timer, is_late: Callable[[], bool]
) -> tuple[Mapping[str, Any] | None, str]:
    """The best launch, None where the present one is, and what was found."""
    expected = [call.run() for call in group.calls]
    base = [timer(call.run) for call in group.calls]
    present = tuning.choose_row(card.architecture, group.family, **group.facts).launch
    best, best_ratio, tried, failed = present, 1.0, 1, 0

    def consider(candidate: Mapping[str, Any]) -> None:
        nonlocal best, best_ratio, tried, failed
        tried += 1
        ratio = _time_ratio(group, candidate, expected, base, timer)
        failed += ratio is None
        if ratio is not None and ratio < GAIN * best_ratio:
            best, best_ratio = candidate, ratio

    for row in tuning.all_rows(card.architecture, group.family, group.facts):
        if row.launch != present and not is_late():
            consider(row.launch)
    for name in STEPS:
        for candidate in neighbours(best, name):
            if not is_late():
                consider(candidate)
    told = f"{best_ratio:.3f} of the time before ({1e6 * sum(base) / len(base):.1f} us on average)"
    note = f"measured: {told}, {tried} tried, {failed} of them failed"
    return (None if best == present else best), note


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
) -> float | None:  # fmt: skip
    """Geometric mean of a candidate's times over those before; None where it fails or computes otherwise."""
    ratios = []
    try:
        with tuning.on_trial(group.family, candidate):
            for call, results, before in zip(group.calls, expected, base, strict=True):
                if not all(map(_agree, call.run(), results)):
                    return None
                ratios.append(timer(call.run) / before)
    except Exception:  # too much shared memory, or a tile that the compiler refuses: no candidate
        return None
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same but for another order of summation in low precision (TF32 included)."""
    if one.shape != other.shape:
        return False
    if not one.numel():
        return True
    difference, largest = (one.double() - other.double()).abs().max(), other.double().abs().max()
    return bool(difference <= 2e-2 * largest)


def _compare_backends(call: Call, card: Card, timer: Timer, report: Report) -> str:
    seconds: dict[str, float] = {}
    refusals = {}
    for name in dispatch.BACKENDS:
        if reason := backends.refusal(call.op, name, call.args):
            refusals[name] = reason
            continue
        try:
            with backends.use(name):
                call.run()
                seconds[name] = timer(call.run)
        except Exception as error:  # as above
            refusals[name] = report.fail(f"{call.name} by {name!r}", error)
    told = ", ".join(
        [
            f"{name!r} {1e6 * value:.1f} us"
            for name, value in sorted(seconds.items(), key=lambda each: each[1])
        ]
        + [f"{name!r} cannot: {reason}" for name, reason in refusals.items()]
    )
    if len(seconds) > 1:
        family, facts = dispatch.measured_row(call.op, call.args)
        first = min(seconds, key=lambda name: seconds[name])
        note = f"measured: {told}; torch {torch.__version__}"
        report.add(family, facts, {"backend": first}, note)
    return f"{call.name}: {told}"


# --- the table ----------------------------------------------------------------------------------------------


def merged(table: tuning.Table, rows: tuning.Table) -> dict[str, list[dict[str, Any]]]:
    """The table with new rows before its own, which they replace where the conditions are the same."""
    content = {family: list(own) for family, own in table.items()}
    for family, new in rows.items():
        conditions = [row["when"] for row in new]
        content[family] = [*new, *(row for row in content.get(family, []) if row["when"] not in conditions)]
    return content


def write(path: Path, content: tuning.Table) -> None:
    """Write a table, a line for each row, whole or not at all."""
    families = [
        f'  "{family}": [\n' + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n  ]"
        for family, rows in content.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("{\n" + ",\n".join(families) + "\n}\n")
    os.replace(temporary, path)


# --- on the card --------------------------------------------------------------------------------------------


def time_on_card(call: Callable[[], object]) -> float:
    """Median seconds of a call that finds the L2 cache cold, between two events on the stream.

    The card is kept busy until the call is queued behind what overwrites the cache, so that the time of the
    host's launches is not in it.
    """
    size = 4 * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    cache = torch.empty(max(size, 1 << 26), dtype=torch.int8, device="cuda")
    for _ in range(3):
        call()
    times = []
    for _ in range(SAMPLES):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(3):
            cache.zero_()
        torch.cuda._sleep(QUEUE_CYCLES)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]


def why_no_card() -> str | None:
    """Why nothing can be tuned here, or None."""
    from fused_ops.triton_support import card_of, why_not

    if not torch.cuda.is_available():
        build = "" if torch.version.cuda else ", which is built without CUDA"
        return f"torch {torch.__version__}{build}, sees none"
    if reason := why_not(torch.empty(1, device="cuda")):
        return f"{card_of(torch.device('cuda', torch.cuda.current_device())).name}: {reason}"
    return None


def main(out: Path | None, seconds: float) -> int:
    """The command: 0 when a table was written, 2 without a card."""
    if reason := why_no_card():
        print(f"fused_ops tune needs a card that Triton serves: {reason}", file=sys.stderr)
        return 2
    from fused_ops.triton_support import card_of
    from fused_ops.tuning.tune_calls import calls

    device = torch.device("cuda", torch.cuda.current_device())
    card = card_of(device)
    report = tune(calls(device), card, time_on_card, seconds)
    path = out or tuning.FOLDER / f"{card.architecture}.json"
    try:
        write(path, merged(tuning.table(card.architecture), report.rows))
    except OSError as error:
        print(f"fused_ops tune cannot write its table ({error}); name another file by --out", file=sys.stderr)
        return 1
    tuning.forget_tables()
    dispatch.forget_choices()
    if report.left_out:
        print(f"{len(report.left_out)} left out for want of time (--seconds {seconds:g}):", *report.left_out)
    print(f"{sum(map(len, report.rows.values()))} rows measured on {card.name}, written to {path}")
    return 0
