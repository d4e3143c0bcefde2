"""What a run leaves behind, at most eight files: JSON of everything, CSV, a summary, a log, pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.build import FACTS
from benchmarks.gpu.stages import Outcome, in_a_line, read_json
from benchmarks.gpu.tuning import TABLE
from benchmarks.results import to_csv
from benchmarks.tables import Table

MOST = 8
NAMES = ("gpu.json", "ops.csv", "report.md", "log.txt", TABLE, "ops.png", "steps.png")
DRY = "A dry run without a card: it shows that the code runs; its times mean nothing."
# The figures that there is a target for, of the cold cache.
_COLUMNS = (
    "op", "mode", "shape", "dtype", "layout", "provider", "cold_us", "warm_us", "host_us", "predicted_us",
    "roofline_us", "roofline_share", "x_eager", "captured",
)  # fmt: skip


def write(out: Path, outcomes: Sequence[Outcome], scratch: Path, dry: bool) -> list[Path]:
    """Write all files but the log, which has been written to all along; pictures where matplotlib is."""
    results = {outcome.stage: outcome.result or {} for outcome in outcomes}
    facts = read_json(scratch / FACTS) or {}
    stages = [asdict(outcome) for outcome in outcomes]
    whole = {"dry": dry, "note": DRY if dry else "", "facts": facts, "stages": stages}
    (out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")
    records = results.get("ops", {}).get("records", [])
    (out / "ops.csv").write_text(to_csv(records))
    (out / "report.md").write_text(report(outcomes, facts, dry))
    if (scratch / TABLE).exists():
        shutil.copyfile(scratch / TABLE, out / TABLE)
    try:
        pictures(out, records, results.get("steps", {}).get("records", []), dry)
    except ModuleNotFoundError as error:
        print(f"no pictures: {error.name} is not installed")
    except Exception as error:  # the stages that follow are worth more than a picture
        print(f"no pictures: {in_a_line(error)}")
    return [out / name for name in NAMES if (out / name).exists()]


def report(outcomes: Sequence[Outcome], facts: Mapping[str, Any], dry: bool) -> str:
    """The summary in Markdown."""
    results = {outcome.stage: outcome.result or {} for outcome in outcomes}
    stages = Table("Stages", ("stage", "state", "seconds", "reason"))
    stages.rows = [(o.stage, o.state, f"{o.seconds:.0f}", o.reason) for o in outcomes]
    lines = [
        "# make gpu",
        "",
        DRY if dry else f"On {facts.get('device', 'a card that no stage lived to name')}.",
        "",
        f"{dict(facts) | results.get('build', {})}",
        "",
        stages.markdown(),
    ]
    ops = results.get("ops", {})
    if records := ops.get("records"):
        shown = Table(
            "Ops: microseconds, each provider after the L2 cache was overwritten (cold) or not", _COLUMNS
        )
        shown.rows = [
            tuple(str(record.get(name, "")) for name in _COLUMNS) for record in records if "cold_us" in record
        ]
        lines += ["", f"Ceilings: {ops['ceilings']}", "", shown.without_empty_columns().markdown()]
    if steps := results.get("steps", {}).get("records"):
        names = tuple(dict.fromkeys(name for record in steps for name in record))
        rows = [tuple(str(record.get(name, "")) for name in names) for record in steps]
        lines += ["", Table("Training steps", names, rows, str(results["steps"]["ratios"])).markdown()]
    for line in results.get("tune", {}).get("lines", []):
        lines += ["", f"- {line}"]
    return "\n".join(lines) + "\n"


def pictures(out: Path, records: list[dict[str, Any]], steps: list[dict[str, Any]], dry: bool) -> None:
    """Share of the roofline per case, and time and memory of the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    timed = [
        record for record in records if record.get("cold_us") and record["provider"] not in ("bound", "copy")
    ]
    if timed:
        names = list(dict.fromkeys(" ".join(record[key] for key in _COLUMNS[:5]) for record in timed))
        providers = list(dict.fromkeys(record["provider"] for record in timed))
        figure, axes = plt.subplots(figsize=(10, 1 + 0.25 * len(names) * max(1, len(providers)) / 2))
        for index, provider in enumerate(providers):
            mine = [record for record in timed if record["provider"] == provider]
            places = [names.index(" ".join(record[key] for key in _COLUMNS[:5])) for record in mine]
            width = 0.8 / len(providers)
            axes.barh(
                [place + (index - (len(providers) - 1) / 2) * width for place in places],
                [record["roofline_us"] / record["cold_us"] for record in mine], width, label=provider,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("share of the roofline, cold cache" + (" (dry run: means nothing)" if dry else ""))
        axes.legend()
        figure.savefig(out / "ops.png", dpi=100, bbox_inches="tight")
        plt.close(figure)
    if steps:
        figure, pair = plt.subplots(1, 2, figsize=(8, 3))
        for axes, key, title in ((pair[0], "ms", "ms per step"), (pair[1], "peak_bytes", "peak bytes")):
            axes.bar([record["provider"] for record in steps], [record[key] for record in steps])
            axes.set_title(title + (" (dry run)" if dry else ""))
        figure.savefig(out / "steps.png", dpi=100, bbox_inches="tight")
        plt.close(figure)
