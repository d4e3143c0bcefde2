"""fer-mtl train: train on one subject-independent fold and report on the unseen subjects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

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
from fer_mtl.console import Console
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.run import make_ready, train_run
from fer_mtl.training.run_folder import RunFolder

DESCRIPTION = """Train FERSNet on one subject-independent fold, keep the selected epoch, test it once on the
subjects that were left out, and write config.yaml, environment.json, stats.jsonl, checkpoints, report.json
and report.html into a run folder. Example: fer-mtl train --data ck48:data/CK+48 --fold 0 --preset small"""


def parser(arguments: Sequence[str]) -> ArgumentParser:
    options = make_parser("train", DESCRIPTION)
    options.add_argument("--out", type=str, help="run folder (default: runs/DATA-PRESET-SHARING-foldN)")
    options.add_argument(
        "--resume", type=str, metavar="FOLDER", help="continue the run in this folder, as configured there"
    )
    options.add_argument("--overwrite", action="store_true", help="replace the run that the folder holds")
    options.add_argument(
        "--dry_run", action="store_true", help="check all that a run needs, say what it would do, and stop"
    )
    add_config(options, arguments)
    return options


def default_folder(config: TrainConfig) -> Path:
    """A name for the run folder from what the run is about."""
    data = re.sub(r"[^A-Za-z0-9]+", "-", config.data.partition(":")[0])
    kind = config.model.sharing if config.model.synthesis else "recognition"
    fold = "all" if config.fold is None else f"fold{config.fold}"
    return Path("runs") / f"{data}-{config.preset}-{kind}-{fold}"


def main(arguments: Sequence[str]) -> int:
    arguments = normalise(arguments, SWITCHES, LISTS)
    options = parse(parser(arguments), arguments)
    console = Console()
    if options.resume:
        allowed = {"--resume", f"--resume={options.resume}", options.resume}
        extra = [argument for argument in arguments if argument not in allowed]
        if extra:
            raise ValueError(
                f"--resume continues a run as its config.yaml says and takes no other options, got {extra[0]}"
            )
        folder = Path(options.resume)
        config = RunFolder(folder).read_config()
    else:
        config = read_config(options)
        folder = out_folder(options.out) if options.out else default_folder(config)
    if options.dry_run:
        make_ready(config, RunFolder(folder), overwrite=options.overwrite, console=console)
        console.line(f"run folder: {folder}")
        return 0
    train_run(config, folder, resume=bool(options.resume), overwrite=options.overwrite, console=console)
    return 0
