from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fer_mtl.data import FaceSet, check
from fer_mtl.data.check import _FEW


def repeated(faces: FaceSet, first: int, second: int, change: int = 0) -> FaceSet:
    """The faces with image `second` replaced by image `first`, made brighter by `change`."""
    images = faces.images.clone()
    images[second] = (images[first].int() + change).clamp(0, 255).to(torch.uint8)
    return replace(faces, images=images)


def test_a_clean_set(faces: FaceSet) -> None:
    findings = check(faces)
    assert (findings.exact, findings.near, findings.leaks) == ([], [], [])
    assert len(findings.problems) == 7
    assert findings.problems[0] == f"anger is shown by 6 subjects: {_FEW} folds cannot all test it"


def test_the_same_picture_of_two_subjects_with_two_labels(faces: FaceSet) -> None:
    findings = check(repeated(faces, 0, 16))
    assert findings.exact == [[0, 16]]
    assert findings.leaks == [
        "the same picture with two labels: P0000/anger/0 (anger) and P0001/contempt/0 (contempt)",
        "the same picture of two subjects: P0000/anger/0 (P0000) and P0001/contempt/0 (P0001)",
    ]


def test_nearly_the_same_picture_in_two_parts(faces: FaceSet) -> None:
    split = ["test" if subject == "P0001" else "train" for subject in faces.subjects]
    unknown = replace(
        repeated(faces, 0, 14, change=5), split=split, subjects=list(faces.sources), known_subjects=False
    )
    findings = check(unknown)
    assert (findings.exact, findings.near) == ([], [(0, 14)])
    assert findings.leaks == [
        "nearly the same picture in two parts: P0000/anger/0 (train) and P0001/anger/0 (test)"
    ]
    assert findings.problems == []  # who is who is not known: nothing to say of subjects


def test_copies_of_one_subject_and_label_are_no_leak(faces: FaceSet) -> None:
    findings = check(repeated(faces, 0, 1))
    assert findings.exact == [[0, 1]] and findings.leaks == []


def test_less_is_looked_for_on_request(faces: FaceSet) -> None:
    twice = repeated(faces, 0, 16)
    assert (check(twice, "exact").exact, check(twice, "exact").near) == ([[0, 16]], None)
    assert (check(twice, "none").exact, check(twice, "none").leaks) == (None, [])
    with pytest.raises(ValueError, match="duplicates must be one of none, exact, near, got 'all'"):
        check(faces, "all")


def test_problems_of_classes_subjects_and_pictures(faces: FaceSet) -> None:
    images = faces.images.clone()
    images[2] = 77
    shown = replace(faces, images=images).subset([0, 2, 14, 28, 30])  # P0000 and P0002 twice, P0001 once
    parts = replace(shown, split=["train", "train", "train", "train", "test"])
    problems = check(parts).problems
    assert "no image of fear" in problems
    assert "anger is shown by 3 subjects: 10 folds cannot all test it" in problems
    assert "P0000/contempt/0 has a single colour" in problems
    assert "1 subject with one expression only, without pairs for synthesis: P0001" in problems
    assert problems[-1] == "subject P0002 is in the parts test and train"
