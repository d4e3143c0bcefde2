"""Where the runs of a cross-validation lie: RUN/seed-S/fold-K, each an ordinary run folder.

RUN itself holds config.yaml, folds.json (the split lists and the seeds), report.json and report.html.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fer_mtl.files import read_json

FOLDS = "folds.json"


def fold_folder(root: str | Path, seed: int, fold: int) -> Path:
    return Path(root) / f"seed-{seed}" / f"fold-{fold}"


def fold_folders(root: str | Path) -> list[Path]:
    """Those that are there, whatever seeds folds.json lists."""
    found = sorted(Path(root).glob("seed-*/fold-*"))
    return [path for path in found if re.fullmatch(r"seed-\d+/fold-\d+", path.relative_to(root).as_posix())]


def is_crossval(root: str | Path) -> bool:
    return (Path(root) / FOLDS).is_file()


def matching(source: str, seed: int, fold: int) -> str:
    """What ``source`` means for one fold: the same fold of a cross-validation (or of what was made from one),
    of the same seed or else of the lowest one it has; anything else is taken as it is.

    Raises ``FileNotFoundError`` when it has folds, but not this one.
    """
    seeds = sorted(
        int(match[1])
        for path in Path(source).glob("seed-*")
        if path.is_dir() and (match := re.fullmatch(r"seed-(\d+)", path.name))
    )
    if not seeds:
        return source
    found = [fold_folder(source, s, fold) for s in (seed, *seeds) if fold_folder(source, s, fold).is_dir()]
    if not found:
        raise FileNotFoundError(f"{source} has no fold {fold}")
    return str(found[0])


def read_folds(root: Path) -> dict[str, Any]:
    """The seeds and the split lists of a cross-validation. ``ValueError`` names a file that is broken."""
    content: dict[str, Any] = read_json(root / FOLDS)
    return content
