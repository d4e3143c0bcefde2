from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_mtl.cli import main
from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.synthesis import synthesise
from fer_mtl.training.checkpoints import load_model


@pytest.fixture
def pictures(tmp_path: Path, faces: FaceSet) -> list[Path]:
    """Two faces of one name in two folders."""
    paths = [tmp_path / "one" / "face ü.png", tmp_path / "two" / "face ü.png"]
    for index, path in enumerate(paths):
        path.parent.mkdir()
        Image.fromarray(faces.images[index].permute(1, 2, 0).numpy()).save(path)
    return paths


def test_every_face_gets_every_expression(
    trained_run: Path,
    pictures: list[Path],
    faces: FaceSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["synthesize", str(trained_run), *map(str, pictures), "--out", str(out)]) == 0
    trained = load_model(trained_run)
    expected = {f"face ü-{n}_{name}.png" for n in (1, 2) for name in trained.classes}
    assert {path.name for path in out.iterdir()} == {*expected, "grid.png"}
    assert f"{2 * len(trained.classes)} pictures and grid.png in {out}" in capsys.readouterr().out
    label = trained.classes.index("fear")
    source = center(faces.images[1:2], 32)
    made = synthesise(trained.model, source, faces.labels.new_tensor([label]))
    shown = np.asarray(Image.open(out / "face ü-2_fear.png"))
    assert abs(shown - (255 * made[0].clamp(0, 1)).permute(1, 2, 0).numpy()).max() <= 0.6


def test_one_expression(trained_run: Path, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["synthesize", str(trained_run), str(pictures[0]), "--expression", "fear", "--out", str(out)]
    assert main(arguments) == 0
    assert {path.name for path in out.iterdir()} == {"face ü_fear.png", "grid.png"}


def test_a_bad_picture_stops_it_before_anything_is_written(
    trained_run: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "broken.png", tmp_path / "out"
    broken.touch()
    run = ["synthesize", str(trained_run), str(pictures[0])]
    for arguments, message in (
        ([*run, str(broken)], "broken.png: the file is empty"),
        ([*run, "--expression", "joy"], "--expression must be all or one of anger, "),
    ):
        assert main([*arguments, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not out.exists()
