"""Balancing a training set by synthesis: the FES branch draws faces until the expressions are even.

Only faces of the training subjects of a run's own fold are redrawn. A face is kept when the recogniser sees
the wanted expression in it with enough confidence and the identity network still sees the same person; every
face that is kept has a line in the manifest (:mod:`fer_mtl.training.synthetic`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from fer_mtl.console import Console
from fer_mtl.data import FaceSet
from fer_mtl.evaluation.pictures import to_image
from fer_mtl.evaluation.quality import Judge, identity_features
from fer_mtl.evaluation.synthesis import spread, synthesise
from fer_mtl.files import alone, naming, read_json, write_json, write_text
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import FeatureNetwork
from fer_mtl.training import checkpoints
from fer_mtl.training.config import TrainConfig, from_dict
from fer_mtl.training.seen import people_of, seen_by, union
from fer_mtl.training.settings import check, check_seed
from fer_mtl.training.split import check_expressions
from fer_mtl.training.starting import load_judge
from fer_mtl.training.synthetic import MANIFEST, check_subjects
from fer_mtl.words import counted

SUMMARY = "balance.json"
LARGEST = "largest"
BATCH = 64
STRANGERS = 0.9  # the quantile of cosines between different people that a face must pass by default
COMPARED = 256


@dataclass(frozen=True)
class BalanceOptions:
    """How many faces, and how good they must be.

    ``quota``: "largest" (every expression reaches the count of the most frequent one) or the number of
    synthetic faces in all, dealt so that the expressions become as even as possible. ``confidence``: least
    probability that the recogniser gives the wanted expression. ``identity``: least cosine between the
    identity features of a face and its source; None takes the 90 % quantile of the cosines between different
    training people. ``attempts``: most faces drawn for each one wanted; the last batch is drawn to its end.
    """

    quota: str | int = LARGEST
    confidence: float = 0.7
    identity: float | None = None
    attempts: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        good = self.quota == LARGEST or (isinstance(self.quota, int) and self.quota >= 1)
        check("quota", self.quota, f"{LARGEST} or a number of faces of 1 or more", good)
        check("confidence", self.confidence, "in [0, 1]", 0 <= self.confidence <= 1)
        check("identity", self.identity, "null or in [-1, 1]", -1 <= (self.identity or 0) <= 1)
        check("attempts", self.attempts, "1 or more", self.attempts >= 1)
        check_seed("seed", self.seed)


def wanted_counts(counts: Mapping[str, int], quota: str | int) -> dict[str, int]:
    """Synthetic faces wanted of each expression, given the real ones."""
    if quota == LARGEST:
        return {name: max(counts.values()) - count for name, count in counts.items()}
    left, level = int(quota), dict(counts)
    while left:  # always to the least frequent, as many as lift it to the next level
        low = min(level.values())
        lowest = [name for name, count in level.items() if count == low]
        above = [count for count in level.values() if count > low]
        lift = min(above) - low if above else left
        for name in lowest:
            step = min(lift, -(-left // len(lowest)), left)
            level[name] += step
            left -= step
    return {name: level[name] - counts[name] for name in counts}


@dataclass
class Tally:
    """What became of the faces of one expression."""

    wanted: int
    kept: int = 0
    drawn: int = 0
    unread: int = 0
    """Refused because the recogniser was not confident enough."""
    strange: int = 0
    """Read well, but refused because the person was no longer the same."""


@dataclass
class Balance:
    """Faces as they are kept: stored-size pictures uint8 ``[C, S, S]`` and their records."""

    pictures: list[torch.Tensor] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A run to draw with: its network, its recogniser or another, its identity network, its own fold.

    seen: subjects of its data set whom it or the other recogniser was trained on
    """

    folder: Path
    model: FERSNet
    judge: Judge
    identity: FeatureNetwork
    config: TrainConfig
    split: dict[str, list[str]]
    seen: list[str]


def open_source(folder: str | Path, judge: str | None, classes: tuple[str, ...]) -> Source:
    """Raises ``ValueError`` for a run that cannot draw, has no identity network of its own, or was trained on
    other expressions than ``classes``."""
    folder = Path(folder)
    trained = checkpoints.load_model(folder)
    if not trained.origin:
        raise ValueError(f"{folder} must be a run folder: a bare model does not say whom it was trained on")
    identity = checkpoints.load_identity(folder)
    if identity is None or not trained.model.config["synthesis"]:
        raise ValueError(f"{folder} has no synthesis branch with an identity network (last.pt) to draw with")
    check_expressions(folder, trained.classes, classes)
    config, split = from_dict(TrainConfig, trained.origin["config"]), trained.origin["split"]
    other = load_judge(judge, split["test"], config, classes)
    own = Judge(f"{folder} itself", trained.model)
    origins = [trained.origin, *([] if judge is None else [checkpoints.load_model(judge).origin])]
    seen = union(*map(seen_by, origins))[people_of(config.data)]
    return Source(folder, trained.model, other or own, identity, config, split, seen)


def training_faces(source: Source, faces: FaceSet) -> FaceSet:
    """Those of ``faces`` (the run's data set) that the run was trained on."""
    mine = set(source.split["train"])
    return faces.subset([i for i, subject in enumerate(faces.subjects) if subject in mine])


def stranger_cosine(network: FeatureNetwork, faces: FaceSet, image_size: int) -> float:
    """The STRANGERS quantile of identity cosines between images of different people in ``faces``."""
    some = faces.subset(spread(len(faces), COMPARED))
    start = (some.images.shape[3] - image_size) // 2
    crops = some.images[:, :, start : start + image_size, start : start + image_size].float() / 255
    features = identity_features(network, crops)
    table = cosine_similarity(features[:, None], features[None], dim=-1)
    different = torch.tensor([[a != b for b in some.subjects] for a in some.subjects])
    return float(table[different].quantile(STRANGERS))


def asked(source: Source, train: FaceSet, options: BalanceOptions) -> dict[str, Any]:
    """What the faces that are drawn depend on, as the summary tells it."""
    networks = hashlib.sha256()
    for network in (source.model, source.judge.model, source.identity):
        if isinstance(network, torch.nn.Module):
            for value in network.state_dict().values():
                networks.update(value.cpu().numpy().tobytes())
    return {
        "run": str(source.folder),
        "judge": source.judge.name,
        "networks": networks.hexdigest(),
        "options": vars(options),
        "real": train.class_counts(),
    }


def is_made(source: Source, faces: FaceSet, out: str | Path, options: BalanceOptions) -> bool:
    """Whether :func:`balance` has been done into ``out``, by the same networks with the same options."""
    out = Path(out)
    if not (out / SUMMARY).is_file() or not (out / MANIFEST).is_file():
        return False
    found = read_json(out / SUMMARY)
    return asked(source, training_faces(source, faces), options).items() <= found.items()


def draw_faces(source: Source, train: FaceSet, options: BalanceOptions, console: Console) -> Balance:
    """Draw and sort out until every expression has what it wants, or has had all its attempts."""
    result, random = Balance(), torch.Generator().manual_seed(options.seed)
    least = options.identity
    if least is None:
        least = stranger_cosine(source.identity, train, source.model.config["image_size"])
    for name, wanted in wanted_counts(train.class_counts(), options.quota).items():
        tally = result.tallies[name] = Tally(wanted)
        sources = (train.labels != train.classes.index(name)).nonzero().flatten()
        with console.bar(name, wanted):
            queue = sources[:0]
            while tally.kept < wanted and tally.drawn < options.attempts * wanted:
                if not len(queue):  # every source once, then all again, seen from other places
                    queue = sources[torch.randperm(len(sources), generator=random)]
                chosen, queue = queue[:BATCH], queue[BATCH:]
                draw_batch(source, train, chosen, name, options.confidence, least, random, result)
                console.advance()
        console.line(
            f"{name:<10} {tally.kept} of {wanted} faces wanted, {tally.drawn} drawn, {tally.unread} not read "
            f"as {name}, {tally.strange} of another person"
        )
    check_subjects({record["subject"] for record in result.records}, source.split["train"], "the balance")
    return result


def draw_batch(
    source: Source,
    train: FaceSet,
    chosen: torch.Tensor,
    name: str,
    confidence: float,
    identity: float,
    random: torch.Generator,
    result: Balance,
) -> None:
    """Redraw the images ``chosen``, each seen from a random place and mirrored at random, and keep the good
    ones. The margin around the drawn crop stays the source's own."""
    size, tally = source.model.config["image_size"], result.tallies[name]
    stored = train.images[chosen]
    mirror = torch.rand(len(chosen), generator=random) < 0.5
    stored = torch.where(mirror[:, None, None, None], stored.flip(3), stored)
    places = torch.randint(stored.shape[3] - size + 1, (len(chosen), 2), generator=random).tolist()
    crops = torch.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(stored, places, strict=True)]
    )
    views = crops.float().div_(255)
    label = train.classes.index(name)
    made = synthesise(source.model, views, torch.full((len(chosen),), label))
    probability, _ = source.judge.look(made)
    cosine = cosine_similarity(
        identity_features(source.identity, made), identity_features(source.identity, views)
    )
    for k, index in enumerate(chosen.tolist()):
        if tally.kept == tally.wanted:
            return
        tally.drawn += 1
        sure, same = float(probability[k, label]), float(cosine[k])
        if sure < confidence or int(probability[k].argmax()) != label:
            tally.unread += 1
        elif same < identity:
            tally.strange += 1
        else:
            y, x = places[k]
            picture = stored[k].clone()
            picture[:, y : y + size, x : x + size] = (made[k] * 255).round().to(torch.uint8)
            result.pictures.append(picture)
            result.records.append(
                {
                    "file": f"faces/{name}-{tally.kept:05d}.png",
                    "expression": name,
                    "subject": train.subjects[index],
                    "source": train.sources[index],
                    "source_expression": train.classes[int(train.labels[index])],
                    "confidence": round(sure, 4),
                    "identity": round(same, 4),
                    "judge": source.judge.name,
                    "run": str(source.folder),
                    "data": source.config.data,
                    "fold": source.config.fold,
                    "seed": source.config.seed,
                    "seen": source.seen,
                }
            )
            tally.kept += 1


def balance(
    source: Source,
    faces: FaceSet,
    out: str | Path,
    options: BalanceOptions,
    *,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write faces/, manifest.jsonl and balance.json (the options and each expression's tally) into ``out``;
    returns the last.

    Raises ``FileExistsError`` when ``out`` holds a manifest, or pictures in faces/, and ``overwrite`` is
    false, and ``BlockingIOError`` when another process is at work in it. What a balance that was stopped
    while it wrote has left there is replaced.
    """
    out, console = Path(out), console or Console(quiet=True)
    with alone(out):
        part = out / "faces.part"  # is there as long as ``out`` is neither as it was nor as it is to be
        overwrite = overwrite or part.exists()
        if (out / MANIFEST).exists() and not overwrite:
            raise FileExistsError(
                f"{out} already holds a manifest; choose another --out, or give --overwrite"
            )
        if not overwrite and any((out / "faces").glob("*.png")):  # somebody's
            raise FileExistsError(
                f"{out / 'faces'} holds pictures, which would be removed; choose another --out, or give "
                "--overwrite"
            )
        train = training_faces(source, faces)
        found = draw_faces(source, train, options, console)
        part.mkdir(parents=True, exist_ok=True)
        (out / "faces").mkdir(exist_ok=True)
        names = [Path(record["file"]).name for record in found.records]
        for name, picture in zip(names, found.pictures, strict=True):
            with naming(part / name):
                (part / name).write_bytes(to_image(picture.float() / 255))
        for old in (out / MANIFEST, *(out / "faces").glob("*.png")):
            old.unlink(missing_ok=True)
        for name in names:
            (part / name).replace(out / "faces" / name)
        write_text(out / MANIFEST, "".join(json.dumps(record) + "\n" for record in found.records))
        tallies = {name: vars(tally) for name, tally in found.tallies.items()}
        summary = {**asked(source, train, options), "synthetic": tallies}
        write_json(out / SUMMARY, summary)
        shutil.rmtree(part)
    short = [name for name, tally in found.tallies.items() if tally.kept < tally.wanted]
    if short:
        console.line(
            f"warning: {', '.join(short)} did not reach the quota; lower --confidence or --identity, or "
            "raise --attempts"
        )
    if not any(tally.wanted for tally in found.tallies.values()):
        console.line(
            "warning: the expressions of this training set are even already, so quota largest wants no face; "
            "--quota N enlarges the set by N"
        )
    console.line(f"{counted(len(found.records), 'synthetic face')}: {out / MANIFEST}")
    return summary
