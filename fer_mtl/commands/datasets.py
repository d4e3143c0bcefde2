"""fer-mtl datasets: list the data sets, or check a folder of faces."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console as RichConsole

from fer_mtl.commands.options import make_parser, normalise, parse
from fer_mtl.data import load
from fer_mtl.data.overview import contact_sheet, datasets_table, describe

DESCRIPTION = """List the known data sets with the layout each expects and how to obtain it; or, given NAME
or NAME:FOLDER, load that one and count its classes and subjects."""


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("datasets", DESCRIPTION)
    parser.add_argument("data", type=str, nargs="?", metavar="NAME:FOLDER", help="the data set to check")
    parser.add_argument(
        "--image_size", type=int, default=64, help="side in pixels of the crops it is loaded for"
    )
    parser.add_argument("--channels", type=int, default=3, help="3 (colour) or 1 (grey)")
    parser.add_argument(
        "--skip_bad_images", action="store_true", help="leave unreadable images out and list them"
    )
    parser.add_argument(
        "--sheet", type=str, metavar="FILE", help="draw a contact sheet: PNG, subjects x expressions"
    )
    options = parse(parser, arguments)
    console = RichConsole()
    if options.data is None:
        console.print(datasets_table())
        return 0
    faces = load(
        options.data,
        image_size=options.image_size,
        channels=options.channels,
        skip_bad_images=options.skip_bad_images,
    )
    console.print(describe(faces))
    if options.sheet:
        console.print(f"contact sheet: {contact_sheet(faces, options.sheet)}", markup=False)
    return 0
