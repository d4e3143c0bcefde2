"""fer-mtl balance: draw synthetic faces until the expressions of a training set are even."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.training import checkpoints
from fer_mtl.training.balance import LARGEST, BalanceOptions, balance, is_made, open_source
from fer_mtl.training.config import TrainConfig, from_dict
from fer_mtl.training.fold_folders import fold_folder, is_crossval, matching, read_folds
from fer_mtl.training.run import load_faces

DESCRIPTION = """Let the synthesis branch of a run redraw its training faces until every expression is as
frequent as the most frequent one, or until there are N faces. Kept are those in which the recogniser sees the
wanted expression and the identity network the same person. Only training subjects of the run's own fold are
used. Of a cross-validation every fold is done, in a folder of its own, and the same command continues after a
stop. Then: fer-mtl train --synthetic OUT --init RUN"""


def parse_quota(text: str) -> str | int:
    """ "largest" or a number. ``ValueError`` for anything else."""
    if text == LARGEST:
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--quota must be {LARGEST} or a number of faces, got {text!r}") from None


def folders(run: Path, out: Path) -> list[tuple[Path, Path, int | None, int | None]]:
    """(run of one fold, where its faces go, seed, fold) for every fold of ``run``."""
    if not is_crossval(run):
        return [(run, out, None, None)]
    stored = read_folds(run)
    keys = [(seed, fold["index"]) for seed in stored["seeds"] for fold in stored["folds"]]
    missing = [key for key in keys if not (fold_folder(run, *key) / "report.json").is_file()]
    if missing:
        raise ValueError(f"{run} is not finished: {len(missing)} of {len(keys)} folds are missing")
    return [(fold_folder(run, *key), fold_folder(out, *key), *key) for key in keys]


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments)
    parser = make_parser("balance", DESCRIPTION)
    parser.add_argument("run", type=str, metavar="RUN", help="a run folder of train or crossval")
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="where faces and manifest go")
    parser.add_argument(
        "--quota",
        type=str,
        default=LARGEST,
        help=f"{LARGEST}: every expression becomes as frequent as the most frequent; N: so many synthetic "
        "faces in all, dealt so that the expressions become as even as possible",
    )
    options = BalanceOptions()
    parser.add_argument(
        "--confidence", type=float, default=options.confidence, help="least confidence of the recogniser"
    )
    parser.add_argument(
        "--identity",
        type=float,
        help="least cosine of the identity features of face and source (default: what nine in ten of the "
        "cosines between different training people stay below)",
    )
    parser.add_argument(
        "--attempts",
        type=int,
        default=options.attempts,
        help="most faces drawn for each one wanted (by batches)",
    )
    parser.add_argument(
        "--judge", type=str, metavar="RUN", help="another run's recogniser decides in place of this one's"
    )
    parser.add_argument("--seed", type=int, default=options.seed, help="of the choice of sources and views")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    given = parse(parser, arguments)
    options = BalanceOptions(
        parse_quota(given.quota), given.confidence, given.identity, given.attempts, given.seed
    )
    console, faces = Console(), None
    for run, out, seed, fold in folders(Path(given.run), out_folder(given.out)):
        if faces is None:
            config = checkpoints.load_model(run).origin.get("config")
            if config is None:
                raise ValueError(f"{run} must be a run folder of train or crossval")
            faces = load_faces(from_dict(TrainConfig, config))
        if seed is not None:
            console.line(f"\nseed {seed}, fold {fold}")
        judge = given.judge
        if judge is not None and seed is not None and fold is not None:
            judge = matching(judge, seed, fold)
        source = open_source(run, judge, faces.classes)
        if seed is not None and not given.overwrite and is_made(source, faces, out, options):
            console.line("made already")
            continue
        balance(source, faces, out, options, overwrite=given.overwrite, console=console)
    return 0
