from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.training.fold_folders import fold_folder, is_crossval, matching


def test_the_same_fold_of_the_same_seed_or_of_the_lowest(tmp_path: Path) -> None:
    for seed in (2, 10):
        fold_folder(tmp_path, seed, 1).mkdir(parents=True)
    assert matching(str(tmp_path), 10, 1) == str(tmp_path / "seed-10" / "fold-1")
    assert matching(str(tmp_path), 5, 1) == str(tmp_path / "seed-2" / "fold-1")
    with pytest.raises(FileNotFoundError, match="has no fold 3"):
        matching(str(tmp_path), 2, 3)


def test_what_has_no_folds_is_taken_as_it_is(tmp_path: Path) -> None:
    assert matching(str(tmp_path), 0, 1) == str(tmp_path)
    assert matching("some/file.pt", 0, 1) == "some/file.pt"
    assert not is_crossval(tmp_path)
    (tmp_path / "folds.json").write_text("{}")
    assert is_crossval(tmp_path)
