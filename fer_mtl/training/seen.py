"""Whom a network has seen: the subjects that it was trained on, and every network that it was started from or
that drew for it.

Subjects are kept by ``people`` (:class:`fer_mtl.data.DataSetInfo`): equal ids are one person in data sets of
the same people, and different persons elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from fer_mtl.data import DATASETS
from fer_mtl.training import checkpoints
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.synthetic import read_manifest

log = logging.getLogger(__name__)

Seen = dict[str, list[str]]


def people_of(data: str) -> str:
    """Whose faces the data set "NAME" or "NAME:REST" shows."""
    name = data.partition(":")[0]
    return DATASETS[name].people if name in DATASETS else name


def union(*parts: Seen) -> Seen:
    """Everybody in any of ``parts``."""
    return {
        people: sorted(set().union(*(part.get(people, ()) for part in parts)))
        for people in sorted(set().union(*parts))
    }


def seen_by(origin: Mapping[str, Any]) -> Seen:
    """Whom the network of a checkpoint (``origin`` as in :class:`~fer_mtl.training.checkpoints.TrainedModel`)
    has seen. Older checkpoints tell of their own run alone; a model folder tells nothing."""
    if "seen" in origin:
        return dict(origin["seen"])
    return _own(origin["config"]["data"], origin.get("split", {})) if "config" in origin else {}


def seen_by_run(config: TrainConfig, subjects: Mapping[str, Collection[str]]) -> Seen:
    """Whom a run of ``config`` will have seen, given its subjects by role."""
    parts = [_own(config.data, subjects)]
    if config.init is not None:
        parts.append(seen_by(checkpoints.load_model(config.init).origin))
    if config.synthetic is not None:
        parts += [{people_of(config.data): record["seen"]} for record in read_manifest(config.synthetic)]
    return union(*parts)


def _own(data: str, subjects: Mapping[str, Collection[str]]) -> Seen:
    # The validation subjects chose the epoch.
    return {people_of(data): sorted({*subjects.get("train", ()), *subjects.get("validation", ())})}


def warn_untold(source: str, origin: Mapping[str, Any]) -> None:
    """Say it where ``source`` is a bare model, which is not refused for what nobody knows."""
    if "config" not in origin:
        log.warning(
            "warning: %s does not say whom it was trained on, so nobody can tell whether the tested subjects "
            "are among them",
            source,
        )


def check_unseen(source: str, origin: Mapping[str, Any], test_subjects: Collection[str], data: str) -> None:
    """Raise ``ValueError`` when the network ``source`` (``origin`` as in its checkpoint), which a run on
    ``data`` builds on or is read by, has seen subjects that are tested; warn where nobody can tell."""
    if test_subjects:
        warn_untold(source, origin)
    seen = set(seen_by(origin).get(people_of(data), ())) & set(test_subjects)
    if seen:
        raise ValueError(
            f"init and judge must not know the tested subjects, but {source}, or what it was made from, "
            f"was trained on {len(seen)} of them: {', '.join(sorted(seen)[:5])}; use the run of the same fold"
        )
