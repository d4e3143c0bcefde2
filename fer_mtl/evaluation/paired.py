"""Paired tests between two runs that were tested on the same images in the same folds."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from fer_mtl.data import DATASETS
from fer_mtl.evaluation.predictions import Predictions, concatenate
from fer_mtl.evaluation.runs import Run, mean_correct
from fer_mtl.evaluation.statistics import corrected_t, mcnemar, subject_permutation
from fer_mtl.training.config import TrainConfig


def compare(first: Run, second: Run) -> dict[str, Any]:
    """Three tests of "both runs recognise equally well", over the seeds that both have.

    ``mcnemar``: exact, on images, one for each seed. ``folds``: paired t over folds, of the accuracy that is
    averaged over seeds (which all have the same folds, and so are no further evidence on them), with the
    correction for overlapping training sets. ``subjects``: sign flips over subjects, of the accuracy that is
    averaged over seeds. Differences are first - second.

    Raises ``ValueError`` naming the runs when they share no seed, or differ in folds or images.
    """
    if found := obstacle(first, second):
        raise ValueError(found)
    seeds = common_seeds(first, second)
    ours, theirs = (
        {key: found for key, found in run.predictions.items() if key[0] in seeds} for run in (first, second)
    )
    theirs = {key: reorder(found, ours[key].source) for key, found in theirs.items()}
    # Where training sets differ in size the larger share is the careful one, and the order does not count.
    share = max(test_share(first), test_share(second))
    differences: dict[int, list[float]] = {}
    for seed, fold in ours:
        right, other_right = (side[seed, fold].correct.double().mean() for side in (ours, theirs))
        differences.setdefault(fold, []).append(float(right - other_right))
    per_seed = {
        seed: mcnemar(
            *(
                concatenate([found for key, found in side.items() if key[0] == seed]).correct.tolist()
                for side in (ours, theirs)
            )
        )
        for seed in seeds
    }
    correct, subjects = mean_correct(list(ours.values()))
    other, _ = mean_correct(list(theirs.values()))
    return {
        "first": first.name,
        "second": second.name,
        "seeds": seeds,
        "mcnemar": per_seed,
        "folds": corrected_t([fmean(found) for found in differences.values()], share),
        "subjects": subject_permutation(correct, other, subjects),
    }


def test_share(run: Run) -> float:
    """Mean of n_test / n_train over the folds."""
    shares = [entry["n_test"] / entry["n_train"] for entry in run.report["per_fold"]]
    return sum(shares) / len(shares)


def reorder(predictions: Predictions, sources: list[str]) -> Predictions:
    """``predictions`` in the order of ``sources``, which must be all of its own."""
    place = {source: i for i, source in enumerate(predictions.source)}
    index = [place[source] for source in sources]
    return Predictions(
        predictions.classes,
        sources,
        [predictions.subject[i] for i in index],
        predictions.label[index],
        predictions.probability[index],
    )


def common_seeds(first: Run, second: Run) -> list[int]:
    """In the order of the first run."""
    others = {seed for seed, _ in second.predictions}
    return [seed for seed in dict.fromkeys(seed for seed, _ in first.predictions) if seed in others]


def obstacle(first: Run, second: Run) -> str | None:
    """Why there is no paired test of the two; None where there is one."""
    names, seeds = f"{first.name} and {second.name}", common_seeds(first, second)
    if not seeds:
        return f"{names} share no seed, so no paired test is possible"
    ours, theirs = (
        {key: set(found.source) for key, found in run.predictions.items() if key[0] in seeds}
        for run in (first, second)
    )
    if ours != theirs or made_by(first.config) != made_by(second.config):
        return f"{names} were not tested on the same images in the same folds"
    return None


def made_by(config: TrainConfig) -> tuple[str, dict[str, Any]]:
    """The options of a data set: of a drawn one two may give different faces the same names. Where a set lies
    does not matter."""
    name, _, rest = config.data.partition(":")
    drawn = name in DATASETS and not DATASETS[name].needs_folder
    return rest if drawn else "", config.data_options


def comparable(first: Run, second: Run) -> bool:
    """Whether :func:`compare` would take them."""
    return obstacle(first, second) is None
