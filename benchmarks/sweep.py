"""``python -m benchmarks.sweep``: is the fused op ever slower than eager? Many shapes, each measured briefly.

The sizes go from one pixel to 96 x 96, from 1 to 1024 channels and from one image on, in both dtypes and
layouts, forward and full. What looks more than 5 % slower than eager is measured again, for longer, before it
counts as lost. The module is what users get (``auto``). Figures go to ``results/<machine>/sweep.csv`` case by
case; ``--minutes`` stops in time, and the next run goes on where this one ended (``--again`` starts anew).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.cases import OPS, Case, Shape, check_names
from benchmarks.measure import Effort, interleave, ratio, spread
from benchmarks.problems import Problem, make_problem
from benchmarks.providers import OpProviders, Unavailable
from benchmarks.results import FOLDER
from benchmarks.tables import Table

OP_NAMES = (
    "selective_share", "batch_norm_act", "batch_norm_act_eval", "instance_norm_act", "group_norm_act",
)  # fmt: skip
SIDES, CHANNELS, BATCHES = (1, 3, 7, 16, 40, 96), (1, 12, 32, 100, 256, 1024), (1, 8)
MOST_ELEMENTS, MOST_FLOPS = 1 << 20, 2e9  # larger ones are in the suites, and take long here
SMALL_MS = 0.1
LOST, SMALL_LOST = 1.05, 1.3  # of eager's time; the latter is what a small call's overhead may make of it
BRIEF, LONG = Effort(0.15, 9, 41), Effort(1.5, 15, 201)
FIELDS = ("op", "mode", "shape", "dtype", "layout", "eager_ms", "ours_ms", "to_eager", "p20", "p80", "commit")
CASE_FIELDS = FIELDS[:5]
Row = dict[str, str]


def cases(ops: Sequence[str] = OP_NAMES) -> Iterator[Case]:
    """All cases of the sweep; those with the same tensors side by side."""
    check_names("op", ops, OP_NAMES)
    for op, batch, channels, side in itertools.product(ops, BATCHES, CHANNELS, SIDES):
        shape, modes = Shape(batch, channels, side), OPS[op].modes
        if shape.elements > MOST_ELEMENTS or (OPS[op].cost(shape, modes[-1], 4).flops or 0) > MOST_FLOPS:
            continue
        for dtype, layout in itertools.product(("float32", "bfloat16"), ("channels_last", "contiguous")):
            for mode in modes:
                if mode != "backward":
                    yield Case(op, mode, shape, dtype, layout, ("eager", "auto"))


def measure(case: Case, problem: Problem) -> Row | None:
    """One case's row; None where torch itself refuses it (statistics of a single value)."""
    providers = OpProviders(problem, "cpu")
    runners = {"eager": providers.runner("eager", case.mode)}
    try:
        runners["eager"].once()
    except ValueError:
        return None
    try:
        runners["auto"] = providers.runner("auto", case.mode)
    except Unavailable:  # the automatic choice is a backend that is a provider itself
        runners["auto"] = providers.runner("cpu", case.mode)
    for effort in (BRIEF, LONG):
        samples = interleave(runners, effort)
        if samples.failures:
            raise next(iter(samples.failures.values()))
        found = ratio(samples.times["auto"], samples.times["eager"])
        if found["median"] <= LOST:
            break
    names = ("op", "mode", "dtype", "layout")
    row = {name: getattr(case, name) for name in names} | {"shape": case.shape.name}
    row |= {
        f"{name}_ms": f"{1e3 * spread(samples.times[provider])['median']:.4g}"
        for name, provider in (("eager", "eager"), ("ours", "auto"))
    }
    row |= {"to_eager": f"{found['median']:.3f}", "p20": f"{found['p20']:.3f}", "p80": f"{found['p80']:.3f}"}
    return row


def key(case: Case) -> tuple[str, ...]:
    """What tells a case's row from others: CASE_FIELDS."""
    return case.op, case.mode, case.shape.name, case.dtype, case.layout


def lost(rows: Sequence[Row], limit: float = LOST) -> list[Row]:
    return [row for row in rows if float(row["to_eager"]) > limit]


def summary(rows: Sequence[Row]) -> Table:
    """Of how many cases how many are lost: by eager's time, and of the longer ones by op, mode and dtype."""
    small = [row for row in rows if float(row["eager_ms"]) < SMALL_MS]
    large = [row for row in rows if float(row["eager_ms"]) >= SMALL_MS]
    some = {f"eager's time below {SMALL_MS} ms": small, f"{SMALL_MS} ms and more": large}
    for row in large:
        some.setdefault(", ".join(row[name] for name in ("op", "mode", "dtype")), []).append(row)
    commits = ", ".join(sorted({row["commit"] or "unknown" for row in rows}))
    table = Table(
        "sweep: slower than eager?",
        ("cases", "number", "more than 5 % slower", "by the 20th percentile too", "more than 30 %", "worst",
         "median"),
        note=f"Lines of an op are of {SMALL_MS} ms and more; ratios are of times. Commits: {commits}.",
    )  # fmt: skip
    for what, those in some.items():
        if not those:
            continue
        ratios = sorted(float(row["to_eager"]) for row in those)
        gone = lost(those)
        surely = [row for row in gone if float(row["p20"]) > LOST]
        counts = (
            f"{len(gone)} ({100 * len(gone) / len(those):.0f} %)",
            len(surely),
            len(lost(those, SMALL_LOST)),
        )
        middle = ratios[len(ratios) // 2]
        table.rows.append((what, str(len(those)), *map(str, counts), f"{ratios[-1]:.2f}", f"{middle:.2f}"))
    return table


def load_all(folder: Path = FOLDER) -> dict[str, list[Row]]:
    """The rows of every machine under ``folder``."""
    return {path.parent.name: load(path) for path in sorted(folder.glob("*/sweep.csv"))}


def load(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def store(path: Path, rows: Sequence[Row]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--ops", default=",".join(OP_NAMES), help="comma-separated")
    parser.add_argument("--minutes", type=float, default=15.0, help="stop after so many; 0 only prints")
    parser.add_argument(
        "--again", choices=("all", "lost"),
        help="measure again what was measured; `lost` makes the counts flatter, since nothing else is",
    )  # fmt: skip
    parser.add_argument("--every", type=int, default=1, help="of all cases only every n-th")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    options = parser.parse_args(arguments)
    if warning := machine.load_warning():
        print(f"WARNING: {warning}")
    environment = machine.describe("cpu")
    path = options.results / machine.slug(environment) / "sweep.csv"
    ops = options.ops.split(",")
    rows = load(path)
    if options.again:
        gone = [row for row in (rows if options.again == "all" else lost(rows)) if row["op"] in ops]
        rows = [row for row in rows if row not in gone]
    known = {tuple(row[name] for name in CASE_FIELDS) for row in rows}
    try:
        wanted = list(cases(ops))[:: options.every]
    except ValueError as error:
        parser.error(str(error))
    left = (case for case in wanted if key(case) not in known)
    end = time.monotonic() + 60 * options.minutes
    for _, alike in itertools.groupby(left, key=lambda case: case.setup):
        problem: Problem | None = None
        for case in alike:
            if time.monotonic() > end:
                break
            if problem is None:
                problem = make_problem(case, "cpu")
            if row := measure(case, problem):
                rows.append(row | {"commit": environment["commit"] or ""})
                store(path, rows)
    print(summary(rows).markdown())
    for row in sorted(lost(rows), key=lambda row: -float(row["to_eager"])):
        print(*(row[name] for name in FIELDS[:-1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
