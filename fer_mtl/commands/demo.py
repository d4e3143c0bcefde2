"""fer-mtl demo: three ways of sharing on drawn faces, in minutes."""

from __future__ import annotations

from collections.abc import Sequence

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.demo import demo_config, run_demo
from fer_mtl.files import alone
from fer_mtl.training.run_folder import RunFolder

DESCRIPTION = """Train FERSNet on drawn faces with selective sharing, with hard sharing and without sharing,
test the three on people they have not seen, redraw those with every expression, and compare. Takes under five
minutes on two CPU cores and needs no data."""


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("demo", DESCRIPTION)
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the report")
    parser.add_argument(
        "--epochs", type=int, help="epochs of each training (default: about a minute's worth)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and augmentation")
    options = parse(parser, arguments)
    chosen = {} if options.epochs is None else {"epochs": options.epochs}
    console = Console()
    out = out_folder(options.out)
    RunFolder(out).check_report_free()
    with alone(out):
        run_demo(out, config=demo_config(seed=options.seed, **chosen), console=console, overwrite=True)
    console.line(f"try it in a browser: fer-mtl app {out / 'convflu'}")
    return 0
