"""``python -m benchmarks.gpu``: all that needs a card, stage by stage, each in a process of its own."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.stages import ROOT, Context, Outcome, run_apart, run_here, write_outcome
from benchmarks.gpu.suite import BY_NAME, STAGES, TOTAL_SECONDS

GOOD = ("passed", "left out")
DEFAULT_OUT = ROOT / "build" / "gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every stage passed or had nothing to do here, 1 when one did not, 2 without a card."""
    began = time.monotonic()  # from a cold disk it takes a while until torch has looked for the card
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--dry", action="store_true", help="tiny shapes, to see that the code runs; its times mean nothing"
    )
    parser.add_argument("--only", help="stages, separated by commas: " + ", ".join(BY_NAME))
    parser.add_argument("--stage", choices=BY_NAME, help=argparse.SUPPRESS)  # in the stage's own process
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--seconds", type=float, default=TOTAL_SECONDS, help="end after so long (default: %(default)g)"
    )
    options = parser.parse_args(arguments)
    if options.seconds <= 0:
        parser.error(f"--seconds must be above 0, got {options.seconds:g}")
    if options.device == "cpu" and not options.dry:
        parser.error("--device cpu goes with --dry: speed is measured on a card alone")
    wanted = options.only.split(",") if options.only else list(BY_NAME)
    for name in wanted:
        if name not in BY_NAME:
            parser.error(f"--only: {name!r} is no stage; known are {', '.join(BY_NAME)}")
    if options.stage:
        from benchmarks.gpu.build import leave_facts

        context = Context(options.stage, options.device, options.dry, options.seconds, options.scratch)
        leave_facts(context)
        write_outcome(run_here(BY_NAME[options.stage], context), options.scratch)
        return 0
    if options.device == "cuda" and (reason := why_no_card()):
        print(f"make gpu needs a card: {reason}; without one: --device cpu --dry", file=sys.stderr)
        return 2
    seconds = options.seconds - (time.monotonic() - began)
    outcomes = run_all(wanted, options.out, options.device, options.dry, seconds)
    return 0 if all(outcome.state in GOOD for outcome in outcomes) else 1


def why_no_card() -> str | None:
    """Why there is no card, or None."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} sees none" if torch.version.cuda else (
        f"torch {torch.__version__} is built without CUDA"
    )  # fmt: skip


def run_all(wanted: Sequence[str], out: Path, device: str, dry: bool, seconds: float) -> list[Outcome]:
    """Run the stages one after the other, and write what they found after each of them."""
    from benchmarks.gpu import files

    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    arguments = ["--device", device, *(["--dry"] if dry else [])]
    with tempfile.TemporaryDirectory() as folder, (out / "log.txt").open("w") as log:
        scratch = Path(folder)
        for stage in STAGES:
            if stage.name not in wanted:
                continue
            print(f"== {stage.name}: {stage.summary}", file=log, flush=True)
            # What the stages before did not use is this one's, but not what those after it need.
            later = sum(each.seconds for each in STAGES[STAGES.index(stage) + 1 :] if each.name in wanted)
            left = min(max(stage.seconds, end - time.monotonic() - later), end - time.monotonic())
            if left <= 1:
                outcomes.append(Outcome(stage.name, "out of time", 0.0, "the stages before took it all"))
            else:
                outcomes.append(run_apart(stage, arguments, scratch, left, log))
            last = outcomes[-1]
            reason = f" - {last.reason}" if last.reason else ""
            line = f"{last.stage}: {last.state} after {last.seconds:.0f} s{reason}"
            print(line, flush=True)
            print(f"-- {line}", file=log, flush=True)
            written = files.write(out, outcomes, scratch, dry)
    print(f"{len(written)} files in {os.path.relpath(out)}")
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
