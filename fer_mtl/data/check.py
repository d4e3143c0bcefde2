"""What may be wrong with a data set: pictures that are there twice, leaks between subjects, labels and parts,
and classes or subjects that cannot serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from fer_mtl.data.duplicates import exact_duplicates, near_duplicates
from fer_mtl.data.faceset import FaceSet
from fer_mtl.words import counted

DUPLICATES = ("none", "exact", "near")
"""What is looked for: nothing, equal pictures, or nearly equal ones as well."""

_FEW = 10  # the usual number of folds


@dataclass(frozen=True)
class Findings:
    """What `check` found.

    exact: groups of indices of equal pictures; near: pairs of nearly equal ones; None: not looked for
    leaks: one line per pair of equal or nearly equal pictures with two labels, subjects or official parts
    problems: one line each
    """

    exact: list[list[int]] | None
    near: list[tuple[int, int]] | None
    leaks: list[str]
    problems: list[str]


def check_duplicates(duplicates: str) -> None:
    """ValueError unless it is one of `DUPLICATES`."""
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates must be one of {', '.join(DUPLICATES)}, got {duplicates!r}")


def check(faces: FaceSet, duplicates: str = "near") -> Findings:
    """Look for everything; `duplicates` is one of `DUPLICATES`, else ValueError."""
    check_duplicates(duplicates)
    exact = exact_duplicates(faces.images) if duplicates != "none" else None
    near = near_duplicates(faces.images) if duplicates == "near" else None
    leaks = [
        line
        for word, pairs in (
            ("the same picture", [pair for group in exact or () for pair in combinations(group, 2)]),
            ("nearly the same picture", near or []),
        )
        for i, j in pairs
        for line in _leaks(faces, i, j, word)
    ]
    return Findings(exact, near, leaks, list(_problems(faces)))


def _leaks(faces: FaceSet, i: int, j: int, word: str) -> Iterator[str]:
    def line(what: str, first: str, second: str) -> str:
        return f"{word} {what}: {faces.sources[i]} ({first}) and {faces.sources[j]} ({second})"

    first, second = faces.classes[faces.labels[i]], faces.classes[faces.labels[j]]
    if first != second:
        yield line("with two labels", first, second)
    if faces.known_subjects and faces.subjects[i] != faces.subjects[j]:
        yield line("of two subjects", faces.subjects[i], faces.subjects[j])
    if faces.split is not None and faces.split[i] != faces.split[j]:
        yield line("in two parts", faces.split[i], faces.split[j])


def _problems(faces: FaceSet) -> Iterator[str]:
    labels = faces.labels.tolist()
    for label, name in enumerate(faces.classes):
        subjects = {s for s, own in zip(faces.subjects, labels, strict=True) if own == label}
        if not subjects:
            yield f"no image of {name}"
        elif faces.known_subjects and len(subjects) < _FEW:
            yield f"{name} is shown by {counted(len(subjects), 'subject')}: {_FEW} folds cannot all test it"
    flat = [faces.sources[i] for i, image in enumerate(faces.images) if image.min() == image.max()]
    for source in flat:
        yield f"{source} has a single colour"
    if not faces.known_subjects:
        return
    shown: dict[str, set[int]] = {}
    parts: dict[str, set[str]] = {}
    for i, (subject, label) in enumerate(zip(faces.subjects, labels, strict=True)):
        shown.setdefault(subject, set()).add(label)
        if faces.split is not None:
            parts.setdefault(subject, set()).add(faces.split[i])
    single = sorted(subject for subject, own in shown.items() if len(own) == 1)
    if single:
        more = ", ..." if len(single) > 5 else ""
        yield (
            f"{counted(len(single), 'subject')} with one expression only, without pairs for synthesis: "
            + ", ".join(single[:5]) + more
        )  # fmt: skip
    for subject, own in sorted(parts.items()):
        if len(own) > 1:
            yield f"subject {subject} is in the parts {' and '.join(sorted(own))}"
