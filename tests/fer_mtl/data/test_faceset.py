from __future__ import annotations

import pytest
import torch

from fer_mtl.data.faceset import FaceSet, stored_side


def make(n: int = 4, **changes: object) -> FaceSet:
    fields: dict = {
        "name": "toy",
        "classes": ("anger", "fear", "happiness"),
        "images": torch.zeros(n, 3, 55, 55, dtype=torch.uint8),
        "labels": torch.arange(n) % 3,
        "subjects": [f"S{i // 2}" for i in range(n)],
        "sources": [f"{i}.png" for i in range(n)],
    }
    return FaceSet(**(fields | changes))


@pytest.mark.parametrize(("size", "side"), [(96, 110), (64, 73), (48, 55), (224, 257)])
def test_images_are_kept_with_the_papers_margin(size: int, side: int) -> None:
    assert stored_side(size) == side
    assert make(images=torch.zeros(4, 1, side, side, dtype=torch.uint8)).image_size == size


@pytest.mark.parametrize("size", [7, 0, -96])
def test_too_small_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="image_size must be at least 8"):
        stored_side(size)


def test_sizes_that_are_no_ints_are_refused() -> None:
    with pytest.raises(TypeError, match="image_size must be an int, got float"):
        stored_side(96.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": torch.zeros(4, 3, 55, 55)}, TypeError, "images must be uint8"),
        ({"labels": torch.zeros(4)}, TypeError, "labels must be int64"),
        ({"images": torch.zeros(4, 3, 55, 50, dtype=torch.uint8)}, ValueError, r"\[n, channels, S, S\]"),
        ({"images": torch.zeros(4, 2, 55, 55, dtype=torch.uint8)}, ValueError, "channels must be 1"),
        ({"subjects": ["a"]}, ValueError, "one length.*'subjects': 1"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, ValueError, r"labels must lie in 0\.\.2, got 0\.\.3"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, ValueError, r"got -1\.\.2"),
        ({"classes": ("fear", "fear", "joy")}, ValueError, "distinct"),
        ({"split": ["train"]}, ValueError, "one length.*'split': 1"),
        ({"split": ["train", "dev", "test", "test"]}, ValueError, "split must be made of .*, got 'dev'"),
    ],
)
def test_fields_that_disagree_are_refused(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**changes)


def test_the_official_split_goes_with_the_images() -> None:
    whole = make(4, split=["train", "train", "validation", "test"], known_subjects=False)
    part = whole.subset([3, 0])
    assert part.split == ["test", "train"]
    assert not part.known_subjects
    assert "official split: train 2, validation 1, test 1" in whole.describe()
    assert "4 colour images of unknown subjects" in whole.describe()
    assert make().subset([0]).split is None


def test_of_many_skipped_files_some_are_named() -> None:
    text = make(skipped=[f"{i}.png: empty" for i in range(23)]).describe()
    assert "skipped 23: 0.png: empty" in text and text.endswith("19.png: empty; and 3 more")


def test_subset_by_indices_keeps_their_order() -> None:
    whole = make(6, skipped=["bad.png: why"], notes=["resized"])
    part = whole.subset([4, 0])
    assert part.sources == ["4.png", "0.png"]
    assert part.subjects == ["S2", "S0"]
    assert part.labels.tolist() == [1, 0]
    assert (part.skipped, part.notes, part.classes) == (whole.skipped, whole.notes, whole.classes)


def test_subset_by_mask_and_of_nothing() -> None:
    whole = make(6)
    assert whole.subset(whole.labels == 1).sources == ["1.png", "4.png"]
    assert len(whole.subset([])) == 0
    with pytest.raises(ValueError, match="length 6"):
        whole.subset(torch.tensor([True, False]))


def test_counts_include_absent_classes() -> None:
    assert make(2).class_counts() == {"anger": 1, "fear": 1, "happiness": 0}


def test_description_says_what_was_skipped() -> None:
    text = make(6, skipped=["bad.png: why"], notes=["2 images resized"]).describe()
    for part in ("6 colour images of 3 subjects", "anger 2", "skipped 1: bad.png: why", "2 images resized"):
        assert part in text
    assert "1 colour image of 1 subject, " in make(1).describe()
