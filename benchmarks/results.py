"""The store of measured figures: one JSON and one CSV per suite and kind of machine.

``results/<machine>/<suite>.json`` holds ``environments`` (by a short key) and ``records``, one per case and
provider, each with the key of the environment it was measured in. Only statistics are kept, no samples. Each
case is written when it is done, so a run that was stopped has lost no more than the case it was at.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]
CASE_FIELDS = ("op", "mode", "shape", "dtype", "layout")
FOLDER = Path(__file__).resolve().parent / "results"


class Store:
    """The figures of one suite on one kind of machine, on disk.

    Raises:
        ValueError: the file is there and is not such a store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environments: dict[str, dict[str, Any]] = {}
        self.records: list[Record] = []
        if path.exists():
            try:
                content = json.loads(path.read_text())
                self.environments, self.records = content["environments"], content["records"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} does not hold benchmark results ({error}); move it away") from None

    def find(self, case: Record, environment: dict[str, Any]) -> list[Record]:
        """What is known of a case (its fields) from exactly this environment."""
        key = environment_key(environment)
        return [r for r in self.records if _key(r) == _key(case) and r["environment"] == key]

    def put(self, records: list[Record], environment: dict[str, Any]) -> None:
        """Add one case's records in place of what was known of the same providers, and write."""
        key = environment_key(environment)
        self.environments[key] = environment
        new = {(*_key(record), record["provider"]) for record in records}
        kept = [record for record in self.records if (*_key(record), record["provider"]) not in new]
        self.records = sorted(
            [*kept, *({**record, "environment": key} for record in records)],
            key=lambda record: (*map(str, _key(record)), record["provider"]),
        )
        used = {record["environment"] for record in self.records}
        self.environments = {k: value for k, value in self.environments.items() if k in used}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        environments = json.dumps(self.environments, indent=1)
        lines = ",\n".join(json.dumps(record) for record in self.records)
        _replace(self.path, f'{{"environments": {environments},\n"records": [\n{lines}\n]}}\n')
        _replace(self.path.with_suffix(".csv"), to_csv(self.records))


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record[field] for field in CASE_FIELDS)


def environment_key(environment: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:8]


def to_csv(records: list[Record]) -> str:
    """The records as a table, their columns in order of first appearance."""
    columns = list(dict.fromkeys(column for record in records for column in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def load_all(folder: Path = FOLDER) -> dict[str, dict[str, Store]]:
    """Every store under ``folder``: machine -> suite -> store."""
    found: dict[str, dict[str, Store]] = {}
    for path in sorted(folder.glob("*/*.json")):
        found.setdefault(path.parent.name, {})[path.stem] = Store(path)
    return found


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
