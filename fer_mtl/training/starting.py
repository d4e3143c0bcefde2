"""Fine-tuning: start a network from another run's, some of its parts afresh."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fer_mtl.evaluation.quality import Judge
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.pretrained import load_weights
from fer_mtl.training import checkpoints
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.seen import check_unseen
from fer_mtl.training.synthetic import check_drawn_by


def part_of(key: str) -> set[str]:
    """The parts of FERSNet that a key of its state dict belongs to, as ``restart`` names them."""
    first, *rest = key.split(".")
    if first == "levels":
        return {{"share": "sharing"}.get(rest[1], rest[1])}
    return {first, "style"} if first == "decoder" and "style" in rest else {first}


def start_from(model: FERSNet, source: str, restart: Collection[str]) -> None:
    """Copy the weights of the run or checkpoint ``source`` into ``model``, but for the parts ``restart``.

    Raises ``ValueError`` naming what does not fit: another width, sharing or number of expressions in a part
    that is kept.
    """
    found = checkpoints.load_model(source).model.state_dict()
    own = model.state_dict()
    afresh = {key for key in own if part_of(key) & set(restart)}
    kept = {key: value for key, value in found.items() if not part_of(key) & set(restart)}
    load_weights(model, {**{key: own[key] for key in afresh}, **kept}, source)


def check_start(config: TrainConfig, test_subjects: Collection[str], classes: Sequence[str]) -> None:
    """Raise ``ValueError`` when a run of ``config`` must not start from its ``init``: that knows tested
    subjects, or other expressions, and parts that tell expressions apart by their number would be kept. And
    when who drew its ``synthetic`` faces knows tested subjects."""
    if config.synthetic is not None:
        check_drawn_by(config.synthetic, test_subjects)
    if config.init is None:
        return
    found = checkpoints.load_model(config.init)
    check_unseen(config.init, found.origin, test_subjects, config.data)
    if found.classes == tuple(classes):
        return
    numbered = ("classifier", "style") if config.model.synthesis else ("classifier",)
    afresh = {*config.restart, *(["style"] if "decoder" in config.restart else [])}
    if kept := [part for part in numbered if part not in afresh]:
        raise ValueError(
            f"restart must have {' and '.join(kept)} as well, got {', '.join(config.restart) or 'nothing'}: "
            f"{config.init} knows {', '.join(found.classes)}, this run {', '.join(classes)}"
        )


def load_judge(
    source: str | None, test_subjects: Collection[str], config: TrainConfig, classes: Sequence[str]
) -> Judge | None:
    """The recogniser of the run ``source``, to read the faces synthesised by a run of ``config``; raises as
    :func:`open_judge`."""
    if source is None:
        return None
    return open_judge(source, test_subjects, config.data, vars(config.model), classes)


def open_judge(
    source: str,
    test_subjects: Collection[str],
    data: str,
    drawn_by: Mapping[str, Any],
    classes: Sequence[str],
) -> Judge:
    """The recogniser of ``source``, to read what a network with the settings ``drawn_by`` draws on ``data``.

    Raises ``ValueError`` when it knows tested subjects, other expressions, or sees images of another size.
    """
    trained = checkpoints.load_model(source)
    check_unseen(source, trained.origin, test_subjects, data)
    if trained.classes != tuple(classes):
        raise ValueError(f"judge must read {', '.join(classes)}; {source} reads {', '.join(trained.classes)}")
    for key in ("image_size", "in_channels"):
        if trained.model.config[key] != drawn_by[key]:
            raise ValueError(
                f"judge must have model.{key} {drawn_by[key]} as the network whose faces it reads, {source} "
                f"has {trained.model.config[key]}"
            )
    return Judge(source, trained.model)


def data_name(data: str) -> str:
    """ "ck48:some/folder" -> "ck48"."""
    return data.partition(":")[0]
