from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fer_mtl import FERSNet
from fer_mtl.cli import main
from fer_mtl.models import export
from fer_mtl.training.checkpoints import load_model


def test_a_model_folder_serves_every_command(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "given away"
    assert main(["export", str(trained_run), "--out", str(out)]) == 0
    assert f"README.md, config.json, model.safetensors in {out}" in capsys.readouterr().out
    before, after = load_model(trained_run), load_model(out)
    assert after.classes == before.classes and after.views == before.views
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            FERSNet.from_pretrained(out)(image)["logits"], before.model(image)["logits"]
        )
    recorded = after.model.metadata
    assert recorded["data"] == "procedural" and recorded["method"] == "FERSNet (ConvFLU)"
    told = (out / "config.json").read_text(encoding="utf-8") + (out / "README.md").read_text(encoding="utf-8")
    for secret in (str(trained_run), "P0001", "num_subjects"):  # neither paths nor people
        assert secret not in told

    again = tmp_path / "again"
    assert main(["export", str(out), "--out", str(again)]) == 0
    assert (again / "config.json").read_bytes() == (out / "config.json").read_bytes()


def test_views_of_the_run_go_with_the_model(tmp_path: Path) -> None:
    model = FERSNet(2, 32, 0.125)
    model.save_pretrained(tmp_path / "one", {"expressions": ["no", "yes"], "views": "ten"})
    model.save_pretrained(tmp_path / "two")
    assert load_model(tmp_path / "one").views == "ten" and load_model(tmp_path / "two").views == "center"


def test_programs_with_what_they_take(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "programs"
    assert main(["export", str(trained_run), "--format", "pt2", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"model.json", "recognition.pt2", "synthesis.pt2"}
    told = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert told["expressions"] == list(load_model(trained_run).classes)
    assert told["image"] == {"channels": 3, "face_side": 37, "side": 32, "range": [0, 1]}
    assert told["files"]["synthesis.pt2"] == {"inputs": ["image", "expression"], "output": "redrawn"}


@pytest.mark.parametrize("kind", ["folder", "pt2"])
def test_a_disk_that_takes_no_more_is_one_line(
    kind: str, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        code = main(["export", str(trained_run), "--format", kind, "--out", str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    error = capsys.readouterr().err
    assert code == 2 and f"File too large: '{tmp_path / 'out'}'" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_lies_beside_is_not_touched(trained_run: Path, tmp_path: Path) -> None:
    """A folder OUT.partial was removed, be it the user's or that of an export at work."""
    beside = tmp_path / "out.partial"
    beside.mkdir()
    (beside / "notes.txt").write_text("of the user")
    assert main(["export", str(trained_run), "--out", str(tmp_path / "out")]) == 0
    assert (beside / "notes.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.partial"}
    (tmp_path / "new").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_of_two_exports_into_one_folder_the_first_is_kept(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, command = tmp_path / "out", ["export", str(trained_run), "--out", str(tmp_path / "out")]

    def other(*arguments: object) -> dict[str, object]:
        monkeypatch.undo()
        assert main(command) == 0
        return {}

    monkeypatch.setattr("fer_mtl.commands.export.facts", other)
    assert main(command) == 2
    assert f"--out must be a folder that does not exist yet, got {out}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out] and load_model(out).model


def test_bad_input_is_one_line_and_leaves_nothing(
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there, new, run = tmp_path / "there", tmp_path / "new", str(trained_run)
    there.mkdir()
    monkeypatch.setattr(export, "TOLERANCE", -1.0)  # no program is good enough
    for arguments, out, code, message in (
        ([run], there, 2, "--out must be a folder that does not exist yet"),
        ([run, "--format", "tflite"], new, 2, "--format must be one of"),
        ([str(tmp_path / "gone")], new, 2, "gone"),
        ([run, "--format", "pt2"], new, 1, "differs from the network"),
    ):
        assert main(["export", *arguments, "--out", str(out)]) == code
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
