from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.training.config import TrainConfig
from fer_mtl.training.run_folder import RunFolder


def test_a_run_is_not_overwritten_silently(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_config(TrainConfig())
    with pytest.raises(FileExistsError, match=r"already holds a run; continue it with --resume .*run"):
        RunFolder(tmp_path / "run").create()
    assert run.config.exists()


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_config(TrainConfig())
    run.pictures.mkdir()
    (run.pictures / "grid.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    run.create(overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_overwriting_leaves_alone_where_a_link_leads(tmp_path: Path) -> None:
    """It ended with an error in the middle, the checkpoints gone."""
    run, watched = RunFolder(tmp_path / "run"), tmp_path / "watched"
    run.create()
    run.write_config(TrainConfig())
    watched.mkdir()
    (watched / "events").write_text("of another run, too")
    run.events.symlink_to(watched)
    run.create(overwrite=True)
    assert list(run.root.iterdir()) == [] and (watched / "events").exists()


def test_the_configuration_comes_back(tmp_path: Path) -> None:
    run, config = RunFolder(tmp_path), TrainConfig(epochs=3, fold=None, data="folder:Straße 7")
    run.write_config(config)
    assert run.read_config() == config


def test_a_broken_configuration_names_the_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no run \(no config.yaml\)"):
        run.read_config()
    for text in ("epochs: [", "epochs: 0", "speed: 3", "3"):
        run.config.write_text(text)
        with pytest.raises(ValueError, match=r"config.yaml: "):
            run.read_config()


def test_stats_of_epochs_to_be_done_again_are_dropped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        run.add_stats({"epoch": epoch})
    with open(run.stats, "a") as file:
        file.write('{"epoch": 4, "los')  # the process died here
    assert [line["epoch"] for line in run.read_stats()] == [1, 2, 3]
    run.keep_stats(2)
    run.add_stats({"epoch": 3})
    assert [line["epoch"] for line in run.read_stats()] == [1, 2, 3]


def test_a_broken_line_of_an_epoch_is_said_of_its_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.stats.write_text('{"epoch": 1}\n\0\0\0\n')
    with pytest.raises(ValueError, match=r"stats.jsonl has a line that is not JSON"):
        run.read_stats()
