"""fer-mtl report: runs side by side, beside the paper, with paired tests."""

from __future__ import annotations

from collections.abc import Sequence

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.evaluation.comparison import write_comparison
from fer_mtl.evaluation.runs import load_run
from fer_mtl.files import alone
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.words import counted

DESCRIPTION = """Set finished runs (of crossval or train) side by side and beside the published figures:
accuracy with intervals, recall and confusion of each expression, calibration, paired tests on the same images
and folds, synthesis, gates, learning curves. Writes report.html, report.md and tables/*.csv."""


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("report", DESCRIPTION)
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="folders of crossval or train")
    parser.add_argument("--out", type=str, default="runs/report", metavar="FOLDER", help="where it goes")
    options = parse(parser, arguments)
    out = out_folder(options.out)
    RunFolder(out).check_report_free()
    runs = [load_run(folder) for folder in options.runs]
    with alone(out):
        write_comparison(runs, out)
    Console().line(f"report of {counted(len(runs), 'run')}: {out / 'report.html'}")
    return 0
