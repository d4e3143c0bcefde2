from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.predictions import concatenate, make_predictions, read_csv, to_csv


def test_a_table_comes_back(faces: FaceSet, tmp_path: Path) -> None:
    found = make_predictions(torch.randn(len(faces), 7), faces)
    (tmp_path / "predictions.csv").write_text(to_csv(found), encoding="utf-8")
    read = read_csv(tmp_path / "predictions.csv")
    assert (read.classes, read.source, read.subject) == (found.classes, found.source, found.subject)
    assert torch.equal(read.label, faces.labels) and torch.equal(read.predicted, found.predicted)
    torch.testing.assert_close(read.probability, found.probability)
    assert torch.equal(read.correct, found.predicted == faces.labels)


def test_parts_are_joined_in_order(faces: FaceSet) -> None:
    logits = torch.randn(len(faces), 7)
    parts = [make_predictions(logits[i : i + 28], faces.subset(range(i, i + 28))) for i in (0, 28)]
    whole = concatenate(parts)
    assert whole.source == faces.sources and torch.equal(whole.predicted, logits.argmax(1))
    with pytest.raises(ValueError, match="must agree in classes"):
        concatenate([])


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the run is not finished"):
        read_csv(tmp_path / "predictions.csv")
    (tmp_path / "predictions.csv").write_text("")
    with pytest.raises(ValueError, match="is not a table of predictions"):
        read_csv(tmp_path / "predictions.csv")
