"""Finished cross-validations made up without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.evaluate import figures_of
from fer_mtl.evaluation.predictions import make_predictions, to_csv
from fer_mtl.files import write_json, write_text
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.crossval import begin, fold_config
from fer_mtl.training.fold_folders import fold_folder
from fer_mtl.training.run_folder import RunFolder
from fer_mtl.training.split import folds_of

PARAMETERS = {"sharing": 5, "total": 100}
SYNTHESIS: dict[str, Any] = {
    "images": 12,
    "expression_accuracy": 0.5,
    "per_expression": {"anger": 0.5},
    "judge": "a judge",
    "judge_on_real_faces": 0.9,
    "pairs": 3,
    "pairs_read": 2 / 3,
    "targets_read": 1.0,
    "by_source": {
        name: {
            "sources": sources,
            "expression_accuracy": 0.5 if sources else None,
            "per_expression": {"anger": None, "fear": 0.5} if sources else {"anger": None, "fear": None},
            "pairs": 3 * (sources > 0),
            "pairs_read": 2 / 3 if sources else None,
            "targets_read": 1.0 if sources else None,
        }
        for name, sources in (("anger", 6), ("fear", 0))
    },
    "to_target": {"l1": 0.1, "psnr": 20.0, "ssim": 0.7},
    "unchanged_source": {"l1": 0.2, "psnr": 15.0, "ssim": 0.6},
    "identity": {
        "network": "N",
        "cosine": 0.9,
        "same_person": 0.8,
        "other_people": 0.3,
        "feature_distance": 0.2,
    },
    "sets": None,
}
GATES = [
    {"level": 1, "direction": "recognition from synthesis", "gate": gate, "mean": 0.25, "deviation": 0.1}
    | {"open": 0.1, "per_expression": {"anger": 0.2, "fear": 0.3}}
    for gate in ("r", "z")
]

MakeUp = Callable[..., Path]


@pytest.fixture
def made_up(faces: FaceSet, tmp_path: Path) -> MakeUp:
    """A function that writes a finished cross-validation in which the ``wrong`` sources alone are misread."""

    def make(
        name: str, config: TrainConfig, seeds: tuple[int, ...] = (0,), wrong: set[str] | None = None
    ) -> Path:
        root, folds = tmp_path / name, folds_of(config, faces)
        begin(root, config, folds, seeds, overwrite=False)
        for seed in seeds:
            for fold in folds:
                test = faces.subset(fold.test)
                right = torch.nn.functional.one_hot(test.labels, 7).float()
                missed = torch.tensor([source in (wrong or ()) for source in test.sources])
                logits = 4 * torch.where(missed[:, None], right.roll(1, 1), right)
                found = make_predictions(logits, test)
                figures = figures_of(found)
                trained = sorted({faces.subjects[i] for i in fold.train.tolist()})
                entry = {
                    "fold": fold.index,
                    "accuracy": figures["accuracy"],
                    "n_train": len(fold.train),
                    "n_test": len(test),
                    "test_subjects": list(fold.test_subjects),
                    "train_subjects": trained[: config.train_subjects],
                }
                shared = config.model.synthesis
                run = RunFolder(fold_folder(root, seed, fold.index))
                run.root.mkdir(parents=True)
                run.write_config(fold_config(config, seed, fold.index))
                write_text(run.predictions, to_csv(found))
                write_json(
                    run.report,
                    {
                        **figures,
                        "parameters": PARAMETERS,
                        "seconds": 60.0,
                        "synthesis": SYNTHESIS if shared else None,
                        "gates": GATES if config.model.sharing == "convflu" else [],
                        "per_fold": [entry],
                    },
                )
        return root

    return make
