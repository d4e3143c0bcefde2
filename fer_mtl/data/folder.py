"""`folder:FOLDER`: photographs of your own, as <subject>/<expression>/* or <expression>/*."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fer_mtl.data.expressions import EXPRESSIONS, NEUTRAL, canonical, expression_of
from fer_mtl.data.files import (
    Found,
    Record,
    check_classes,
    deepest,
    files_in,
    found_classes,
    names_of,
    register_files,
    subfolders,
)  # fmt: skip


@register_files(
    "folder",
    summary="a folder of face pictures, already cropped to the face",
    layout="<subject>/<expression>/*, or <expression>/* with subject_pattern=REGEX for the file names",
    obtain="your own pictures",
    labels="the folders' names, in common spellings; other expressions by naming them in classes",
    subjects="the folder above the expressions, or what subject_pattern finds in the file name",
    frames="all that are there",
)
def find_folder(
    root: Path, *, classes: Sequence[str] | None = None, subject_pattern: str | None = None
) -> Found:
    """Look through a folder in one of two layouts, told apart by where the expressions' folders are.

    classes: expressions in the order of the labels; by default those that are found, in canonical order
        (the seven and neutral are known, under common spellings such as "Happy"). Other expressions are
        possible by naming all of them here.
    subject_pattern: regular expression matched from the start of a file's name in the layout <expression>/*;
        its group `subject`, or else its first group, is the subject's id

    Raises ValueError, naming the folder or file, for a layout that is neither or both, an unknown expression
    and a file that the pattern does not match.
    """
    known = (*EXPRESSIONS, NEUTRAL) if classes is None else check_classes(classes, names_of(classes))
    if subject_pattern is not None:
        records = _by_expression(root, known, _compile(subject_pattern))
    else:
        records = _by_subject(root, known)
    return Found(root, records, found_classes(records) if classes is None else known)


def _compile(pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise ValueError(f"subject_pattern must be a regular expression, got {pattern!r}")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"subject_pattern {pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        raise ValueError(rf"subject_pattern {pattern!r} has no group for the subject, as in '(S\d+)_.*'")
    return compiled


def _by_expression(root: Path, known: Sequence[str], pattern: re.Pattern[str]) -> list[Record]:
    _refuse_files(root, "between the expressions' folders")
    group: str | int = "subject" if "subject" in pattern.groupindex else 1
    records = []
    for folder in subfolders(root):
        name = expression_of(folder.name, known, str(folder))
        for inner in subfolders(folder):
            raise ValueError(
                f"{inner} is a folder inside an expression: subject_pattern goes with <expression>/*; "
                "leave it out for <subject>/<expression>/*"
            )
        for path in files_in(folder):
            match = pattern.match(path.name)
            if match is None or not match[group]:
                raise ValueError(f"{path}: subject_pattern {pattern.pattern!r} finds no subject in the name")
            records.append(Record(path, name, match[group]))
    return records


def _by_subject(root: Path, known: Sequence[str]) -> list[Record]:
    _refuse_files(root, "between the subjects' folders")
    names = {canonical(name) for name in known}
    subjects = subfolders(root)
    # Joy may be a person: her folder holds folders, not pictures.
    looks_like = [folder for folder in subjects if canonical(folder.name) in names and not subfolders(folder)]
    if looks_like and len(looks_like) == len(subjects):
        raise ValueError(
            f"{root} is laid out as <expression>/*: say how to find the subject in a file's name with "
            rf"subject_pattern, e.g. '(S\d+)_.*', so that no subject is both trained and tested on"
        )
    if looks_like:
        other = next(folder for folder in subjects if folder not in looks_like)
        raise ValueError(
            f"{root} mixes two layouts: {looks_like[0].name!r} is an expression, {other.name!r} is not; "
            "use <subject>/<expression>/* or <expression>/*"
        )
    records = []
    for subject in subjects:
        _refuse_files(subject, "between a subject's expression folders")
        for folder in subfolders(subject):
            name = expression_of(folder.name, known, str(folder))
            pictures = files_in(deepest(folder, "<subject>/<expression>/*"))
            records += [Record(path, name, subject.name) for path in pictures]
    return records


def _refuse_files(folder: Path, where: str) -> None:
    for path in files_in(folder):
        raise ValueError(f"{path} is a file {where}; expected <subject>/<expression>/* or <expression>/*")
