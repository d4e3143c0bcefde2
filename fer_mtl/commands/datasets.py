"""fer-mtl datasets: list the data sets, explain one, or check a folder of faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.data import card, check, contact_sheet, datasets_table, describe, describe_findings, load
from fer_mtl.data.check import DUPLICATES, check_duplicates
from fer_mtl.data.registry import lookup

DESCRIPTION = """List the known data sets with the layout each expects and how to obtain it. Given NAME,
explain that one. Given NAME FOLDER (or NAME:FOLDER), read that folder, count its classes and subjects, and
look for pictures that are there twice, leaks between subjects, labels and official parts, and other problems.
Example: fer-mtl datasets folder photos --data_options.subject_pattern '(S\\d+)_' --sheet sheet.png"""


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("datasets", DESCRIPTION)
    parser.add_argument("data", type=str, nargs="?", metavar="NAME", help="the data set to explain or check")
    parser.add_argument("folder", type=str, nargs="?", metavar="FOLDER", help="where it lies")
    parser.add_argument(
        "--image_size", type=int, default=64, help="side in pixels of the crops it is loaded for"
    )
    parser.add_argument("--channels", type=int, default=3, help="3 (colour) or 1 (grey)")
    parser.add_argument(
        "--skip_bad_images", action="store_true", help="leave unreadable images out and list them"
    )
    parser.add_argument(
        "--data_options",
        type=dict[str, Any],
        default={},
        help="options of that set, --data_options.KEY VALUE",
    )
    parser.add_argument(
        "--duplicates", type=str, default="near", help=f"what to look for: {', '.join(DUPLICATES)}"
    )
    parser.add_argument(
        "--sheet", type=str, metavar="FILE", help="draw a contact sheet: PNG, subjects x expressions"
    )
    options = parse(parser, arguments)
    check_duplicates(options.duplicates)
    sheet = Path(options.sheet).expanduser() if options.sheet else None
    if sheet is not None and sheet.is_dir():
        raise IsADirectoryError(f"--sheet must be a file, got the folder {sheet}")
    if sheet is not None:
        out_folder(str(sheet.parent), "where --sheet lies")
    console = RichConsole(emoji=False)  # a file may be called :cat:
    if options.data is None:
        console.print(datasets_table())
        return 0
    info, rest = lookup(options.data)
    if options.folder is not None and not info.needs_folder:
        raise ValueError(f"data set {info.name!r} takes no folder, got {options.folder!r}")
    if options.folder is not None and rest:
        raise ValueError(f"the folder must be given once, got {options.data!r} and {options.folder!r}")
    if info.needs_folder and not (rest or options.folder):
        console.print(card(info))
        return 0
    faces = load(
        options.data if options.folder is None else f"{options.data}:{options.folder}",
        image_size=options.image_size,
        channels=options.channels,
        skip_bad_images=options.skip_bad_images,
        **options.data_options,
    )
    console.print(describe(faces))
    findings = check(faces, options.duplicates)
    console.print(describe_findings(findings), markup=False, highlight=False, soft_wrap=True)
    if sheet is not None:
        console.print(f"contact sheet: {contact_sheet(faces, sheet)}", markup=False, soft_wrap=True)
    return 0
