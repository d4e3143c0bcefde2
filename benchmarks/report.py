"""``python -m benchmarks.report``: print the stored figures, draw them, and write them into README.md.

Tables and pictures go between the two markers of benchmarks/README.md; the rest of the file is for people.
``--predict`` prints instead what the cost model says of GPUs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import sweep
from benchmarks.plots import draw
from benchmarks.results import FOLDER, Store, load_all
from benchmarks.tables import Table, predicted, suite_tables

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--readme", type=Path, default=README, help="file to write them into")
    parser.add_argument("--no-plots", action="store_true", help="leave the pictures as they are")
    parser.add_argument("--print-only", action="store_true", help="print the tables and write nothing")
    parser.add_argument(
        "--predict", choices=("quick", "full"), nargs="?", const="quick",
        help="print predicted times of the GPU backends for this suite's cases; needs no card",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.predict:
        wide_console().print(to_rich(predicted(options.predict)))
        return 0
    try:
        machines, sweeps = load_all(options.results), sweep.load_all(options.results)
    except ValueError as error:
        parser.error(str(error))
    if not machines and not sweeps:
        parser.error(f"--results {options.results} holds no figures; measure some first: make bench")
    console = wide_console()
    sections = []
    for machine in sorted({*machines, *sweeps}):
        stores = machines.get(machine, {})
        section = [f"### {machine}", environments(stores)]
        console.rule(machine)
        for suite, store in stores.items():
            shown = suite_tables(suite, store.records)
            for table in shown:
                console.print(to_rich(table))
            section += [shown[0].markdown(), *map(folded, shown[1:])]
            if not options.no_plots and not options.print_only:
                draw(suite, store.records, options.results / machine)
            pictures = sorted((options.results / machine).glob(f"{suite}-*.png"))
            section += [
                f"![{path.stem}]({os.path.relpath(path, options.readme.parent)})" for path in pictures
            ]
        if machine in sweeps:
            table = sweep.summary(sweeps[machine])
            console.print(to_rich(table))
            section.append(folded(table))
        sections.append("\n\n".join(filter(None, section)))
    if not options.print_only:
        write_between_markers(options.readme, "\n\n".join(sections))
        console.print(f"written: {options.readme}, pictures under {options.results}")
    return 0


def environments(stores: dict[str, Store]) -> str:
    """One line for each different environment that the figures come from."""
    lines = []
    for suite, store in stores.items():
        for found in store.environments.values():
            place = (
                found["device"] if found["device"] != "cpu" else f"{found['processor']}, {found.get('isa')}"
            )
            versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
            lines.append(
                f"- {suite}: {place}, {found['threads']} threads, Python {found['python']}, {versions}, "
                f"commit {found['commit']}"
            )
    return "\n".join(dict.fromkeys(lines))


def folded(table: Table) -> str:
    """A table that readers open if they want it."""
    return f"<details><summary>{table.title}</summary>\n\n{table.markdown()}\n\n</details>"


def wide_console() -> Console:
    """The terminal as it is; in a file or pipe, room for whole rows."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 240))


def to_rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, caption=table.note or None)
    for place, column in enumerate(table.columns):
        shown.add_column(column, overflow="fold", no_wrap=place < 4, justify="left" if place < 4 else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers.

    Raises:
        ValueError: the file lacks a marker.
    """
    content = path.read_text()
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} must have the lines {BEGIN} and {END}, in this order")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    os.replace(temporary, path)


if __name__ == "__main__":
    raise SystemExit(main())
