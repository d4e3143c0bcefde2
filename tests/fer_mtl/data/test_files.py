from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fer_mtl.data import load
from fer_mtl.data.files import (
    Found,
    Record,
    build_faceset,
    check_classes,
    data_folder,
    distinct_stems,
    files_in,
    files_under,
    find,
    part_of,
    pictures_in,
    readable_names,
    subfolders,
)  # fmt: skip
from fer_mtl.data.images import read_images


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
        build_faceset("x", Found(tmp_path, [], ("fear",)), image_size=48, channels=3, skip_bad_images=False)


def test_pictures_are_told_by_their_names(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.tiff", "note.txt", "scan.wrl", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.jpeg", "b.PNG", "c.tiff"]


def test_one_of_several_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images: expected a or b/c in it"):
        part_of(tmp_path, ["a", "b/c"], "images")
    (tmp_path / "b" / "c").mkdir(parents=True)
    assert part_of(tmp_path, ["a", "b/c"], "images") == tmp_path / "b" / "c"
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="has images twice, as a and b/c"):
        part_of(tmp_path, ["a", "b/c"], "images")


@pytest.mark.parametrize("classes", [(), ("fear", "fear"), ("fear", "boredom")])
def test_classes_must_be_distinct_and_known(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="classes must be distinct and some of"):
        check_classes(classes, ("fear", "anger"))
    assert check_classes("fear", ("fear", "anger")) == ("fear",)


def test_finding_reads_no_picture(tmp_path: Path) -> None:
    (tmp_path / "ann" / "fear").mkdir(parents=True)
    path = tmp_path / "ann" / "fear" / "1.png"
    path.write_bytes(b"")
    found = find(f"folder:{tmp_path}")
    assert found.records == [Record(path, "fear", "ann")]
    assert found.classes == ("fear",)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("procedural", {}, "not made of picture files"),
        ("folder", {}, "needs a folder"),
        ("folder:.", {"subjects": 3}, "no option 'subjects'"),
    ],
)
def test_what_cannot_be_found(spec: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(spec, **options)


def test_every_data_set_of_files_refuses_an_empty_folder(tmp_path: Path) -> None:
    from fer_mtl.data import DATASETS

    for name, info in DATASETS.items():
        if info.finder is not None:
            with pytest.raises(ValueError, match=str(tmp_path)):
                load(f"{name}:{tmp_path}", image_size=32)


def test_files_of_a_tree_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/c/2.PNG", "a.png", ".hidden/3.png", "b/.4.png", "b/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files_under(tmp_path, (".png",)) == [tmp_path / "a.png", tmp_path / "b" / "c" / "2.PNG"]


def test_links_are_followed_and_those_to_nowhere_are_not_passed_over(tmp_path: Path) -> None:
    real, linked = tmp_path / "real", tmp_path / "linked"
    (real / "fear").mkdir(parents=True)
    (real / "fear" / "1.png").touch()
    (real / "up").symlink_to(tmp_path)
    (linked / "ann").mkdir(parents=True)
    (linked / "ann" / "fear").symlink_to(real / "fear")
    (linked / "bob").symlink_to(real)
    (linked / "2.png").symlink_to(tmp_path / "gone.png")
    found = [path.relative_to(linked).as_posix() for path in files_under(linked, (".png",))]
    assert found == ["2.png", "ann/fear/1.png", "bob/fear/1.png"]
    assert files_in(linked) == [linked / "2.png"]
    with pytest.raises(ValueError, match=r"2\.png: not a readable image \(FileNotFoundError"):
        read_images(files_in(linked), image_size=32)


def test_links_that_lead_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    found = [path.relative_to(tmp_path).as_posix() for path in files_under(tmp_path, (".png",))]
    assert found == ["a/1.png", "a/other/1.png", "b/1.png", "b/other/1.png"]


def test_stems_of_files_are_told_apart() -> None:
    paths = [Path(name) for name in ("x/a.png", "y/a.jpg", "a-1.png", "b.png")]
    assert distinct_stems(paths) == ["a-2", "a-3", "a-1", "b"]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_names_that_no_table_can_hold_are_refused_at_once(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(odd).touch()
    Path(odd + "s").mkdir()
    for find_them in (files_in, subfolders, lambda folder: files_under(folder, (".png",))):
        with pytest.raises(ValueError, match=r"file names must be UTF-8, got .*/caf\\xe9\.pngs?: rename it"):
            find_them(tmp_path)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_names_that_python_takes_for_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its UTF-8 mode in the locale C: the file must not be renamed then."""
    path = Path("caf\udcc3\udca9.png")  # how Python holds the bytes of an é that it does not understand
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("ascii", "surrogateescape"))
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(
        ValueError, match=r"got café\.png: set PYTHONUTF8=1, Python takes names for ascii here"
    ):
        readable_names([path])
