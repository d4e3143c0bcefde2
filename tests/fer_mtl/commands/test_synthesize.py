from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fer_mtl.cli import main
from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.synthesis import synthesise
from fer_mtl.faces import Face
from fer_mtl.faces.align import PLACES
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


def test_one_expression(
    trained_run: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["synthesize", str(trained_run), str(pictures[0]), "--expression", "fear", "--out", str(out)]
    assert main(arguments) == 0
    assert {path.name for path in out.iterdir()} == {"face ü_fear.png", "grid.png"}
    assert capsys.readouterr().out == f"1 picture and grid.png in {out}\n"


@pytest.mark.parametrize("name", ["ada_fear.png", "grid.png"])
def test_no_picture_that_is_read_is_written_over(
    name: str, trained_run: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photographs are often named by person and expression."""
    photographs = [pictures[0].rename(tmp_path / "ada.png"), pictures[1].rename(tmp_path / name)]
    before = [path.read_bytes() for path in photographs]
    command = ["synthesize", str(trained_run), *map(str, photographs), "--out", str(tmp_path)]
    assert main(command) == 2
    assert f"apart from what is read, {tmp_path / name} would be replaced" in capsys.readouterr().err
    assert [path.read_bytes() for path in photographs] == before
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 2


def test_a_home_folder_that_no_shell_has_put_in(
    trained_run: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    arguments = ["~/one/face ü.png", "--expression=fear", "--out=~/out"]
    assert main(["synthesize", str(trained_run), *arguments]) == 0
    assert (tmp_path / "out" / "grid.png").is_file()


def test_the_largest_face_of_a_photograph(
    trained_run: Path,
    pictures: list[Path],
    faces: FaceSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Cut out of a larger picture it is redrawn as the same face alone is."""
    side = faces.images.shape[3]
    photo = Image.new("RGB", (3 * side, 2 * side))
    photo.paste(Image.open(pictures[0]), (side, side // 2))
    photo.save(tmp_path / "photo.png")

    def finds(*lefts: float) -> None:
        boxes = [(left, side // 2, size, size) for left, size in zip(lefts, (side / 4, side), strict=False)]
        eyes = [tuple((x + w * u, y + w * v) for u, v in PLACES[:2]) for x, y, w, _ in boxes]
        found = [Face(box, points) for box, points in zip(boxes, eyes, strict=True)]
        monkeypatch.setattr(
            "fer_mtl.commands.synthesize.make_detector",
            lambda name: SimpleNamespace(detect=lambda image: found),
        )

    out, run = tmp_path / "out", ["synthesize", str(trained_run), "--expression", "fear", "--out"]
    assert main([*run, str(out), str(pictures[0])]) == 0
    finds(0, side)
    assert main([*run, str(out), str(tmp_path / "photo.png"), "--detector", "haar"]) == 0
    alone, cut = (np.asarray(Image.open(out / f"{name}_fear.png")) for name in ("face ü", "photo"))
    assert np.array_equal(alone, cut)
    finds()
    assert main([*run, str(tmp_path / "none"), str(tmp_path / "photo.png"), "--detector", "haar"]) == 2
    assert "photo.png: no face found" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


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
