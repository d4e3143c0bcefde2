from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.data.files import build_faceset, data_folder, files_in, subfolders


def test_listings_are_sorted_and_free_of_clutter(tmp_path: Path) -> None:
    for name in ("b", "a", ".git"):
        (tmp_path / name).mkdir()
    for name in ("2.png", "1.png", ".DS_Store", "Thumbs.db", "desktop.ini", "note.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in subfolders(tmp_path)] == ["a", "b"]
    assert [path.name for path in files_in(tmp_path)] == ["1.png", "2.png", "note.txt"]


def test_the_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder("~", "folder") == tmp_path


def test_no_records_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images in"):
        build_faceset("x", tmp_path, [], ("fear",), image_size=48, channels=3, skip_bad_images=False)
