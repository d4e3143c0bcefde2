"""``fused_ops tune`` as a stage: the table of the card goes to the results and serves the later stages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.stages import Context, Failed, LeftOut
from fused_ops import tuning
from fused_ops.triton_support import CARDS, card_of
from fused_ops.tuning import dispatch, tune, tune_calls
from fused_ops.tuning.ahead import MOST, compilers_for

TABLE = "table.json"


def run(context: Context) -> dict[str, Any]:
    """Measure, and leave the table in the scratch folder."""
    device = torch.device(context.device, 0) if context.device != "cpu" else torch.device("cpu")
    if context.dry:
        card, timer = CARDS["sm_90"], _no_timer
        calls = tune_calls.calls(device, batch=1, shares=((4, 2),))[:2]
    elif reason := tune.why_no_card():
        raise LeftOut(reason)
    else:
        card, timer, calls = card_of(device), tune.time_on_card, tune_calls.calls(device)
    before = tuning.table(card.architecture)

    def keep(report: tune.Report) -> dict[str, Any]:
        """So far: a kernel that takes long to compile may cost the stage its end."""
        tune.write(context.scratch / TABLE, tune.merged(before, report.rows))
        found = {
            "card": card.name, "architecture": card.architecture, "rows": report.rows, "lines": report.lines,
            "left_out": report.left_out, "failed": report.failed,
        }  # fmt: skip
        context.keep(found)
        return found

    with compilers_for(card, 0 if context.dry else MOST) as compilers:
        report = tune.tune(calls, card, timer, context.left, keep=keep, compilers=compilers)
    found = keep(report)
    if report.failed:
        raise Failed(f"{len(report.failed)} could not be measured, first {report.failed[0]}", found)
    return found


def _no_timer(call: Any) -> float:
    """Runs and counts nothing: without a card no launch is better than another."""
    call()
    return 1.0


@contextlib.contextmanager
def tuned(context: Context) -> Iterator[bool]:
    """Within the context the table that was tuned before serves; gives whether there is one."""
    path = context.scratch / TABLE
    if not path.exists() or context.device == "cpu":
        yield False
        return
    architecture = card_of(torch.device(context.device, 0)).architecture
    with tuning.table_given(architecture, json.loads(path.read_text())):
        dispatch.forget_choices()
        yield True
    dispatch.forget_choices()
