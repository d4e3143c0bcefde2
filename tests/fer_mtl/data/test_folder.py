from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_mtl.data import load

WriteTree = Callable[[dict[str, int]], Path]


@pytest.fixture
def by_subject(write_tree: WriteTree) -> Path:
    return write_tree(
        {
            "Anna Müller/Happy/1 a.png": 0,
            "Anna Müller/neutral/2.jpg": 1,
            "bob/Happy/1.png": 2,
            "bob/anger/1.png": 3,
        }
    )


@pytest.fixture
def by_expression(write_tree: WriteTree) -> Path:
    return write_tree({"happy/S1_a.png": 0, "happy/S10_a.png": 1, "fear/S1_b.png": 2, "fear/S10_b.png": 3})


def test_a_folder_per_subject(by_subject: Path) -> None:
    faces = load(f"folder:{by_subject}", image_size=48)
    assert faces.classes == ("anger", "happiness", "neutral")
    assert faces.subjects == ["Anna Müller", "Anna Müller", "bob", "bob"]
    assert faces.sources == [
        "Anna Müller/Happy/1 a.png", "Anna Müller/neutral/2.jpg", "bob/Happy/1.png", "bob/anger/1.png",
    ]  # fmt: skip
    assert faces.labels.tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize("pattern", [r"(S\d+)_.*", r"(?P<rest>(?P<subject>S\d+)_.)"])
def test_a_folder_per_expression(by_expression: Path, pattern: str) -> None:
    faces = load(f"folder:{by_expression}", image_size=48, subject_pattern=pattern)
    assert faces.classes == ("fear", "happiness")
    assert list(zip(faces.subjects, faces.sources, strict=True)) == [
        ("S10", "fear/S10_b.png"), ("S1", "fear/S1_b.png"),
        ("S10", "happy/S10_a.png"), ("S1", "happy/S1_a.png"),
    ]  # fmt: skip


def test_classes_of_ones_own_set_the_labels(write_tree: WriteTree) -> None:
    root = write_tree({"ann/bored/1.png": 0, "ann/happy/1.png": 1})
    faces = load(f"folder:{root}", image_size=48, classes=("happiness", "bored", "anger"))
    assert faces.class_counts() == {"happiness": 1, "bored": 1, "anger": 0}
    with pytest.raises(ValueError, match=r"unknown expression 'bored' in .*ann/bored; known: anger"):
        load(f"folder:{root}", image_size=48)


def test_a_single_class_may_be_named(write_tree: WriteTree) -> None:
    root = write_tree({"ann/bored/1.png": 0, "bob/bored/1.png": 1})
    assert load(f"folder:{root}", image_size=48, classes="bored").class_counts() == {"bored": 2}


@pytest.mark.parametrize("classes", [(1, 2), 1, ("1", 2), True])
def test_numbers_are_no_names(write_tree: WriteTree, classes: object) -> None:
    """A command line makes numbers of folders called 1 and 2: that ended in a traceback."""
    root = write_tree({"ann/1/1.png": 0, "ann/2/1.png": 1})
    with pytest.raises(ValueError, match=r'classes must be names, numbers in quotes as in \["1", "2"\], got'):
        load(f"folder:{root}", image_size=48, classes=classes)
    assert load(f"folder:{root}", image_size=48, classes=["1", "2"]).class_counts() == {"1": 1, "2": 1}


def test_classes_are_named_once(write_tree: WriteTree) -> None:
    root = write_tree({"ann/bored/1.png": 0})
    for classes in (("bored", "bored"), ()):
        with pytest.raises(ValueError, match="classes must be distinct and some of"):
            load(f"folder:{root}", image_size=48, classes=classes)


def test_spellings_named_as_classes_stay_apart(write_tree: WriteTree) -> None:
    root = write_tree({"ann/neutral/1.png": 0, "ann/calm/1.png": 1, "bob/calm/1.png": 2})
    faces = load(f"folder:{root}", image_size=48, classes=("calm", "neutral"))
    assert faces.class_counts() == {"calm": 2, "neutral": 1}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"S\d+", "has no group"),
        (r"(S\d+", "not a regular expression"),
        (r"(S\d\d)_", r"S1_b\.png: subject_pattern .* finds no subject"),
        (5, "subject_pattern must be a regular expression, got 5"),
        (r"(X)?S", r"S10_b\.png: subject_pattern .* finds no subject"),
    ],
)
def test_patterns_that_do_not_fit(by_expression: Path, pattern: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(f"folder:{by_expression}", image_size=48, subject_pattern=pattern)


def test_expressions_without_a_pattern_are_refused(by_expression: Path) -> None:
    with pytest.raises(ValueError, match=r"laid out as <expression>.*subject_pattern"):
        load(f"folder:{by_expression}", image_size=48)


def test_a_pattern_for_folders_of_subjects_is_refused(by_subject: Path) -> None:
    with pytest.raises(ValueError, match="unknown expression 'Anna Müller'"):
        load(f"folder:{by_subject}", image_size=48, subject_pattern="(.)")


def test_a_person_may_be_called_like_an_expression(write_tree: WriteTree) -> None:
    faces = load(f"folder:{write_tree({'Joy/fear/1.png': 0, 'Anna/Joy/1.png': 1})}", image_size=48)
    assert faces.subjects == ["Anna", "Joy"] and faces.class_counts() == {"fear": 1, "happiness": 1}


def test_mixed_layouts_are_refused(write_tree: WriteTree) -> None:
    root = write_tree({"ann/happy/1.png": 0, "fear/1.png": 1})
    with pytest.raises(ValueError, match="mixes two layouts: 'fear' is an expression, 'ann' is not"):
        load(f"folder:{root}", image_size=48)


@pytest.mark.parametrize("stray", ["stray.png", "ann/stray.png", "ann/happy/deeper/1.png"])
def test_what_lies_in_the_wrong_place_is_named(write_tree: WriteTree, stray: str) -> None:
    root = write_tree({"ann/happy/1.png": 0, stray: 1})
    with pytest.raises(ValueError, match=r"stray\.png|deeper"):
        load(f"folder:{root}", image_size=48)


def test_deeper_folders_in_an_expression_are_named(write_tree: WriteTree) -> None:
    root = write_tree({"happy/S1_1.png": 0, "happy/deeper/S1_2.png": 1})
    with pytest.raises(ValueError, match="deeper is a folder inside an expression"):
        load(f"folder:{root}", image_size=48, subject_pattern="(S1)")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no images in {tmp_path}"):
        load(f"folder:{tmp_path}", image_size=48)


def test_bad_images_are_named_or_skipped(by_subject: Path) -> None:
    (by_subject / "bob" / "anger" / "note.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"note\.txt: not a readable image"):
        load(f"folder:{by_subject}", image_size=48)
    faces = load(f"folder:{by_subject}", image_size=48, skip_bad_images=True)
    assert len(faces) == 4
    assert "note.txt" in faces.skipped[0]
