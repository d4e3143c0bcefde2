"""fer-mtl crossval: every fold with every seed, and one report of them."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from fer_mtl.commands.options import (
    LISTS,
    SWITCHES,
    add_config,
    make_parser,
    normalise,
    out_folder,
    parse,
    read_config,
)
from fer_mtl.commands.train import default_folder
from fer_mtl.console import Console
from fer_mtl.processors import available_processors
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.crossval import run_crossval
from fer_mtl.training.networks import choose_device

DESCRIPTION = """Cross-validation: train and test on every subject-independent fold with every seed. Finished
folds are kept and a stopped one goes on where it was, so the same command continues a run, and one with more
seeds extends it. Example: fer-mtl crossval --data ck48:data/CK+48 --seeds 0,1,2 --sharing convflu"""


def parser(arguments: Sequence[str]) -> ArgumentParser:
    options = make_parser("crossval", DESCRIPTION)
    options.add_argument("--out", type=str, help="run folder (default: runs/DATA-PRESET-SHARING-crossval)")
    options.add_argument("--seeds", type=str, default="0", help="one or more seeds, e.g. 0,1,2")
    options.add_argument(
        "--workers", type=int, help="folds trained at a time (default: one a processor; one with CUDA)"
    )
    options.add_argument("--overwrite", action="store_true", help="train again what the folder holds")
    add_config(options, arguments)
    return options


# Settings of a single run that would be passed over here.
NOT_HERE = {
    "--seed": "seeds are given as --seeds, such as 0,1,2",
    "--fold": "every fold is trained; fer-mtl train takes a single one",
}


def read_seeds(text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]. ``ValueError`` for anything else."""
    try:
        return [int(part) for part in str(text).split(",")]
    except ValueError:
        raise ValueError(f"--seeds must be numbers separated by commas, got {text!r}") from None


def default_workers(config: TrainConfig) -> int:
    """One a processor on the CPU, one on a GPU."""
    return 1 if choose_device(config.device).type == "cuda" else available_processors()


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments, SWITCHES, LISTS)
    for argument in arguments:
        if reason := NOT_HERE.get(argument.partition("=")[0]):
            raise ValueError(f"{argument.partition('=')[0]} is not for a cross-validation: {reason}")
    options = parse(parser(arguments), arguments)
    config, seeds = read_config(options), read_seeds(options.seeds)
    if config.seed not in (TrainConfig.seed, *seeds):  # of a file: as it would be passed over, too
        raise ValueError(
            f"seed {config.seed} is not for a cross-validation: {NOT_HERE['--seed']}, got {options.seeds}"
        )
    folder = (
        out_folder(options.out)
        if options.out
        else default_folder(config).with_name(default_folder(config).name.rsplit("-", 1)[0] + "-crossval")
    )
    workers = default_workers(config) if options.workers is None else options.workers
    run_crossval(
        config,
        folder,
        seeds,
        workers=workers,
        overwrite=options.overwrite,
        console=Console(),
    )
    return 0
