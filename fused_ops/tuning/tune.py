"""Measures launch parameters and backends on the present card and writes what is best into its table.

``python -m fused_ops tune``. For each kernel family, and each set of facts that the launch tables tell apart,
:mod:`.search` tries launches on the calls of :mod:`.tune_calls` that have these facts. Then both GPU backends
are timed on every call. Rows go to the head of the card's table, with what was measured in their notes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fused_ops import backends, tuning
from fused_ops.triton_support import Card, rehearse
from fused_ops.tuning import dispatch
from fused_ops.tuning.ahead import Compilers, compilers_for
from fused_ops.tuning.search import Call, Group, Timer, best_launch

LAUNCHES_SHARE = 0.6  # of the time; the rest is for the choice between backends
TOGETHER = 8  # calls whose kernels are compiled at once, before their backends are timed
SAMPLES = 15
QUEUE_CYCLES = 2_000_000  # some 1 ms of the card: what is on trial is planned anew at every call


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
    keep: Callable[[Report], object] = lambda report: None, compilers: Compilers | None = None,
) -> Report:  # fmt: skip
    """Measure until done or out of time; ``timer`` gives the seconds of one call of a function.

    ``keep`` gets the report after each line, for the case that the process does not live to return it.
    ``compilers`` compile what is measured next; without them each kernel is compiled when it is launched.
    """
    began, report, compilers = time.monotonic(), Report(), compilers or Compilers(card, 0)

    def left(share: float = 1.0) -> float:
        return began + share * seconds - time.monotonic()

    def is_late(share: float, what: str) -> bool:
        late = left(share) <= 0
        if late:
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
                launch, note = best_launch(group, card, timer, compilers, lambda: left(LAUNCHES_SHARE))
        except Exception as error:  # the present launch does not run on this card, say: others may
            launch, note = None, f"not measured: {report.fail(title, error)}"
        if launch is not None:
            report.add(group.family, group.facts, launch, f"{note}; {card.name}, torch {torch.__version__}")
        tell(f"{title}: {note}")
    with tuning.table_given(card.architecture, merged(tuning.table(card.architecture), report.rows)):
        for place, call in enumerate(calls):
            if not is_late(1.0, f"backends of {call.name}"):
                if place % TOGETHER == 0:
                    with backends.use("triton"):
                        compilers.compile([each.run for each in calls[place : place + TOGETHER]], left())
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
        first = dispatch.in_order(seconds, norm=call.op.startswith("norm_act"))[0]
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
    """The command: 0 when a table was written, 1 when not or when anything failed, 2 without a card."""
    if reason := why_no_card():
        print(f"fused_ops tune needs a card that Triton serves: {reason}", file=sys.stderr)
        return 2
    from fused_ops.triton_support import card_of
    from fused_ops.tuning.tune_calls import calls

    device = torch.device("cuda", torch.cuda.current_device())
    card = card_of(device)
    with compilers_for(card) as compilers:
        report = tune(calls(device), card, time_on_card, seconds, compilers=compilers)
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
    if report.failed:
        print(f"{len(report.failed)} could not be measured:", *report.failed, sep="\n  ", file=sys.stderr)
    return 1 if report.failed else 0
