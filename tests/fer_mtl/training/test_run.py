from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fer_mtl.data import FaceSet
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.run import fold_name, load_faces, train_run

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def rafdb(tmp_path: Path, faces: FaceSet) -> str:
    """Drawn faces laid out as RAF-DB: 28 to train and 28 to test, all seven codes in both."""
    lines = []
    for i in range(56):
        name = f"{'train' if i < 28 else 'test'}_{i:05d}"
        path = tmp_path / "Image" / "aligned" / f"{name}_aligned.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images[i].permute(1, 2, 0).numpy()).save(path)
        lines.append(f"{name}.jpg {i % 7 + 1}\n")
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return f"rafdb:{tmp_path}"


def test_synthesis_needs_to_know_who_is_who(tiny: Tiny, rafdb: str) -> None:
    with pytest.raises(ValueError, match=r"model\.synthesis must be false .* for rafdb"):
        load_faces(tiny(data=rafdb))


def test_recognition_on_an_official_split(tiny: Tiny, rafdb: str, tmp_path: Path) -> None:
    config = tiny(data=rafdb, fold_rule="official", epochs=1, model={"synthesis": False, "sharing": "none"})
    report = train_run(config, tmp_path / "run")
    assert report["per_fold"][0]["n_train"] == report["per_fold"][0]["n_test"] == 28
    assert report["split"]["test"][0] == "test_00028_aligned.jpg"
    assert "official split" in (tmp_path / "run" / "report.html").read_text()


def test_folds_are_named(tiny: Tiny) -> None:
    assert fold_name(tiny(fold=2)) == "fold 2 of 4 (stratified)"
    assert fold_name(tiny(fold=None)) == "no test fold"
    assert fold_name(tiny(fold_rule="official")) == "official split"
