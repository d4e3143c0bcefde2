"""``python -m benchmarks.compare BASE``: is the working tree slower or hungrier than the revision BASE?

BASE is checked out to a temporary worktree and its native libraries are built there. Then both trees are
measured by this tree's suites, in turn, several times, in processes of their own; each time counts as the
multiple of its case's bound (or, without one, of eager) from the same rounds, so that a slower hour of the
machine does not look like a slower kernel. Listed is what got more than 10 % slower or keeps more bytes for
the backward; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.measure import percentile
from benchmarks.report import to_rich, wide_console
from benchmarks.results import CASE_FIELDS, Record, load_all
from benchmarks.tables import FUSED, Table, is_measured, size

ROOT = Path(__file__).resolve().parent.parent
SLOWER = 1.10
_BUILD = (
    "from importlib.metadata import version; from pathlib import Path; "
    "from build_support import native_build; "
    "native_build.build(Path.cwd(), Path('fused_ops/lib'), version('selective-feature-sharing'))"
)
_WHERE = "import fused_ops; print(fused_ops.__file__)"
Key = tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One case and backend in both trees: times as multiples of the same work, and bytes kept."""

    key: Key
    time_base: float
    time_now: float
    saved_base: int | None
    saved_now: int | None

    @property
    def slower(self) -> float:
        return self.time_now / self.time_base

    @property
    def keeps_more(self) -> bool:
        return None not in (self.saved_base, self.saved_now) and self.saved_now > self.saved_base

    @property
    def is_worse(self) -> bool:
        return self.slower > SLOWER or self.keeps_more


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        epilog="All other options go to the suites: --op, --shapes, --dtypes, --modes, --full, --seconds ...",
    )
    parser.add_argument("base", metavar="BASE", help="a git revision")
    parser.add_argument("--turns", type=int, default=3, help="how often both trees are measured (default 3)")
    parser.add_argument("--suite", action="append", help="test_<suite>.py alone; default the two op suites")
    options, others = parser.parse_known_args(arguments)
    if options.turns < 1:
        parser.error(f"--turns must be 1 or more, got {options.turns}")
    console = wide_console()
    if warning := machine.load_warning():
        console.print(f"WARNING: {warning}")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        try:
            base, now = measure_both(options, others, Path(folder), console)
        except subprocess.CalledProcessError as error:
            console.print(f"failed: {' '.join(error.cmd)}\n{error.stdout[-3000:]}{error.stderr[-3000:]}")
            return 2
    found = differences(base, now)
    console.print(to_rich(table(found)))
    for name, keys in one_sided(base, now).items():
        console.print(f"{len(keys)} cases were measured in {name} alone: {', '.join(map(' '.join, keys))}")
    if not found:
        console.print("nothing was measured in both trees")
        return 2
    worse = [difference for difference in found if difference.is_worse]
    console.print(f"{len(worse)} of {len(found)} cases are worse than in {options.base}")
    return 1 if worse else 0


def measure_both(
    options: argparse.Namespace, others: list[str], folder: Path, console: Console
) -> tuple[list[list[Record]], list[list[Record]]]:
    """The records of every turn, of BASE and of the working tree."""
    suites = options.suite or ["selective_share", "norm_act"]
    tree = folder / "base"
    run("git", "-C", ROOT, "worktree", "add", "--detach", tree, options.base)
    try:
        prepare(tree)
        run(sys.executable, "-c", _BUILD)
        trees = {"base": tree, "now": ROOT}
        results: dict[str, list[list[Record]]] = {"base": [], "now": []}
        for turn in range(options.turns):
            # The order alternates, so that neither tree always comes second to a machine grown warm.
            for name in ("base", "now") if turn % 2 == 0 else ("now", "base"):
                console.print(f"turn {turn + 1} of {options.turns}: {name}")
                place = folder / f"{name}-{turn}"
                results[name].append(measure(trees[name], place, suites, others))
    finally:
        run("git", "-C", ROOT, "worktree", "remove", "--force", tree)
    return results["base"], results["now"]


def prepare(tree: Path) -> None:
    """Build BASE's native libraries in its worktree and put this tree's suites into it."""
    run(sys.executable, "-c", _BUILD, cwd=tree)
    shutil.rmtree(tree / "benchmarks", ignore_errors=True)
    shutil.copytree(ROOT / "benchmarks", tree / "benchmarks", ignore=shutil.ignore_patterns("results"))
    found = Path(run(sys.executable, "-c", _WHERE, cwd=tree).strip())
    if not found.is_relative_to(tree):
        raise RuntimeError(f"fused_ops comes from {found}, not from the worktree {tree}")


def measure(tree: Path, results: Path, suites: Sequence[str], others: Sequence[str]) -> list[Record]:
    """Run the suites on ``tree`` and read what they stored."""
    files = [f"benchmarks/test_{suite}.py" for suite in suites]
    providers = [] if "--providers" in others else ["--providers", ",".join((*FUSED, "bound", "eager"))]
    run(sys.executable, "-m", "pytest", "-q", *files, "--results", results, *providers, *others, cwd=tree)
    stores = [store for machine in load_all(results).values() for store in machine.values()]
    return [record for store in stores for record in store.records]


def run(*command: object, cwd: Path = ROOT) -> str:
    """A command's output, with ``cwd`` first on Python's path. Raises CalledProcessError."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def differences(base: Sequence[Sequence[Record]], now: Sequence[Sequence[Record]]) -> list[Difference]:
    """The cases measured in both trees; times are medians over the turns."""
    ours, theirs = _by_key(now), _by_key(base)
    found = []
    for key in ours.keys() & theirs.keys():
        times = [
            percentile([relative_time(record) for record in records[key]], 0.5) for records in (theirs, ours)
        ]
        kept = [records[key][-1].get("saved_bytes") for records in (theirs, ours)]
        found.append(Difference(key, *times, *kept))
    return sorted(found, key=lambda difference: -difference.slower)


def one_sided(base: Sequence[Sequence[Record]], now: Sequence[Sequence[Record]]) -> dict[str, list[Key]]:
    """Cases that only one of the trees could measure."""
    ours, theirs = _by_key(now).keys(), _by_key(base).keys()
    sides = {"the base": theirs - ours, "the working tree": ours - theirs}
    return {name: sorted(keys) for name, keys in sides.items() if keys}


def _by_key(turns: Sequence[Sequence[Record]]) -> dict[Key, list[Record]]:
    found: dict[Key, list[Record]] = defaultdict(list)
    for records in turns:
        for record in records:
            if is_measured(record) and record["provider"] in FUSED:
                found[(*(record[field] for field in CASE_FIELDS), record["provider"])].append(record)
    return found


def relative_time(record: Record) -> float:
    """The time as a multiple of work that does not depend on the tree; milliseconds where there is none."""
    return record.get("to_bound") or record.get("to_eager") or record["median_ms"]


def table(found: Sequence[Difference]) -> Table:
    rows = [
        (
            " ".join(difference.key),
            f"{difference.time_base:.3g}",
            f"{difference.time_now:.3g}",
            f"{difference.slower:.3f}",
            size(difference.saved_base),
            size(difference.saved_now),
            "worse" if difference.is_worse else "",
        )
        for difference in found
    ]
    columns = ("case", "time / bound, base", "now", "now / base", "kept, base", "kept, now", "")
    return Table("The working tree against the base, slowest first", columns, rows)


if __name__ == "__main__":
    raise SystemExit(main())
