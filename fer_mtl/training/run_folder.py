"""A run's folder: config.yaml, environment.json, stats.jsonl, last.pt, best.pt, predictions.csv,
report.json, report.html, pictures/, tensorboard/.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fer_mtl.files import append_text, read_json, read_yaml, to_yaml, write_text
from fer_mtl.training.config import TrainConfig, from_dict, to_dict


class RunFolder:
    """Names and writes the files of one run."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.environment = self.root / "environment.json"
        self.stats = self.root / "stats.jsonl"
        self.last = self.root / "last.pt"
        self.best = self.root / "best.pt"
        self.report = self.root / "report.json"
        self.html = self.root / "report.html"
        self.pictures = self.root / "pictures"
        self.predictions = self.root / "predictions.csv"
        self.events = self.root / "tensorboard"

    def files(self) -> list[Path]:
        return [
            self.config,
            self.environment,
            self.stats,
            self.last,
            self.best,
            self.report,
            self.html,
            self.pictures,
            self.predictions,
            self.events,
        ]

    def holds_a_run(self) -> bool:
        return any(path.exists() for path in self.files())

    def unbegun(self) -> bool:
        """Whether there is nothing yet that a run could go on from, nor anything it would lose by beginning
        anew."""
        return not any(path.exists() for path in (self.last, self.best, self.stats, self.report))

    def check_free(self) -> None:
        """Raise ``FileExistsError`` when the folder holds a run already."""
        if self.holds_a_run():
            raise FileExistsError(
                f"{self.root} already holds a run; continue it with --resume {self.root}, "
                "choose another --out, or give --overwrite"
            )

    def check_report_free(self) -> None:
        """Raise ``FileExistsError`` when the folder's report is that of a training or an evaluation; others
        (of a demonstration, a comparison) may be made anew."""
        if self.config.exists() or self.predictions.exists():
            raise FileExistsError(
                f"{self.root} holds a run or an evaluation, whose own report would be lost; "
                "choose another --out"
            )

    @property
    def how_to_go_on(self) -> str:
        """For those who stopped the run."""
        return f"continue with: fer-mtl train --resume {self.root}"

    def create(self, overwrite: bool = False) -> None:
        """Make the folder; an old run in it is refused as by ``check_free``, or, with ``overwrite``, its
        files (and nothing else) are removed."""
        if not overwrite:
            self.check_free()
        self.clear()
        self.root.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove the files of a run, and nothing else."""
        for path in self.files():
            if path.is_dir() and not path.is_symlink():  # of a link nothing else is ours
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def write_config(self, config: TrainConfig) -> None:
        write_text(self.config, to_yaml(to_dict(config)))

    def read_config(self) -> TrainConfig:
        """The run's configuration. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
        if not self.config.is_file():
            raise FileNotFoundError(f"{self.root} holds no run (no config.yaml)")
        try:
            return from_dict(TrainConfig, read_yaml(self.config))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.config}: {error}") from error

    def read_environment(self) -> dict[str, Any]:
        """What the run was begun on. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
        content: dict[str, Any] = read_json(self.environment)
        return content

    def add_stats(self, line: dict[str, Any]) -> None:
        append_text(self.stats, json.dumps(line) + "\n")

    def read_stats(self) -> list[dict[str, Any]]:
        """The finished epochs' lines; a last line that a dying process cut short is left out."""
        if not self.stats.is_file():
            return []
        lines = self.stats.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.stats} has a line that is not JSON: {error.doc.strip()[:40]!r}"
            ) from error

    def keep_stats(self, epochs: int) -> None:
        """Drop the lines of epochs that a resumed run does again (the process died after writing them)."""
        if self.stats.is_file():
            kept = [line for line in self.read_stats() if line["epoch"] <= epochs]
            write_text(self.stats, "".join(json.dumps(line) + "\n" for line in kept))
