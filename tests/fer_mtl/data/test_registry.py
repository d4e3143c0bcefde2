from __future__ import annotations

from pathlib import Path

import pytest

from fer_mtl.data import DATASETS, load


def test_every_data_set_says_what_it_is_and_how_to_obtain_it() -> None:
    assert {"procedural", "ck48", "folder"} <= set(DATASETS)
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.summary and info.layout and info.obtain


def test_options_in_the_spec_and_as_keywords_mean_the_same() -> None:
    written = load("procedural:num_subjects=2,seed=3,classes=fear+neutral", image_size=32)
    passed = load("procedural", image_size=32, num_subjects=2, seed=3, classes=("fear", "neutral"))
    assert written.classes == ("fear", "neutral")
    assert written.images.equal(passed.images)


def test_a_single_class_may_be_named() -> None:
    assert load("procedural:num_subjects=1,classes=fear", image_size=32).classes == ("fear",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ck49:data", "unknown data set 'ck49'.*known: .*ck48"),
        ("", "unknown data set ''"),
        ("ck48", "needs a folder: write 'ck48:FOLDER'"),
        ("folder:", "needs a folder"),
        ("procedural:subjects=3", "no option 'subjects'.*num_subjects"),
        ("procedural:40", "key=value"),
        ("procedural:seed=", "key=value"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(spec, image_size=32)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(f"ck48:{tmp_path / 'nowhere'}", image_size=48)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        load(f"folder:{tmp_path / 'file'}", image_size=48)


def test_an_option_of_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'ck48' has no option 'subject_pattern'"):
        load(f"ck48:{tmp_path}", image_size=48, subject_pattern="(.)")


def test_wrong_sizes_channels_and_types_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="channels must be 1"):
        load("procedural", image_size=32, channels=4)
    with pytest.raises(ValueError, match="image_size"):
        load("procedural", image_size=0)
    with pytest.raises(TypeError, match="spec must be a str"):
        load(Path("faces"), image_size=32)  # type: ignore[arg-type]
