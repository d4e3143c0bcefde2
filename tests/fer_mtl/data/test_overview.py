from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from fer_mtl.data import (
    DATASETS,
    FaceSet,
    Findings,
    card,
    contact_sheet,
    datasets_table,
    describe,
    describe_findings,
    load,
)  # fmt: skip


def text_of(renderable: object) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_table_names_every_data_set() -> None:
    text = text_of(datasets_table())
    for name, info in DATASETS.items():
        assert name in text
        assert info.summary.split()[0] in text


def test_counts_of_images_and_subjects(faces: FaceSet) -> None:
    text = text_of(describe(faces.subset(torch.arange(20))))
    assert "20 colour images of 2 subjects" in text
    row = next(line for line in text.splitlines() if "sadness" in line and "│" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["sadness", "2", "10.0%", "1"]


def test_names_in_brackets_are_printed_as_they_are(faces: FaceSet) -> None:
    part = faces.subset([0])
    part.skipped.append("[red]odd[/red].png: why")
    assert "[red]odd[/red].png" in text_of(describe(part))


def test_a_contact_sheet_has_a_row_per_subject_and_a_column_per_class(faces: FaceSet, tmp_path: Path) -> None:
    path = contact_sheet(faces, tmp_path / "new" / "sheet.png", max_subjects=4, side=55)
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
    sheet = Image.open(path)
    assert sheet.height == 22 + 4 * 55
    left = sheet.width - 7 * 55
    second = torch.from_numpy(np.array(sheet))[22 + 55 : 22 + 110, left + 55 : left + 110]
    assert second.permute(2, 0, 1).equal(faces.images[14 + 2])  # subject 1, expression 1, first image


def test_gaps_and_grey(tmp_path: Path) -> None:
    grey = load("procedural", image_size=32, channels=1, num_subjects=2, images_per_expression=1)
    sheet = Image.open(contact_sheet(grey.subset([0, 1, 2, 9]), tmp_path / "sheet.png", side=20))
    assert sheet.mode == "RGB"
    left = sheet.width - 7 * 20
    assert sheet.getpixel((left + 5 * 20 + 10, 22 + 10)) == (255, 255, 255)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_card_says_all_there_is(name: str) -> None:
    text = " ".join(text_of(card(DATASETS[name])).replace("│", " ").split())
    info = DATASETS[name]
    for part in (info.summary, info.obtain, info.labels, info.subjects, info.frames):
        assert " ".join(part.split()[:4]) in text
    for option, default in info.options().items():
        assert f"{option} = {default!r}"[:16] in text


def test_findings_are_counted_and_the_first_listed() -> None:
    leaks = [f"leak {i}" for i in range(25)]
    text = describe_findings(Findings([[0, 1, 2], [3, 4]], [(0, 5)], leaks, []))
    assert text.splitlines()[:3] == [
        "equal to another picture: 3 pictures; nearly equal: 1 pair", "25 leaks:", "  leak 0",
    ]  # fmt: skip
    assert text.splitlines()[-2:] == ["  and 5 more", "0 problems"]
    assert "nearly equal: not looked for" in describe_findings(Findings([], None, [], ["one"]))


def test_a_sheet_without_subjects_shows_the_first_of_each_class(faces: FaceSet, tmp_path: Path) -> None:
    unknown = load("procedural", image_size=48, num_subjects=2, images_per_expression=2)
    unknown.known_subjects = False
    sheet = Image.open(contact_sheet(unknown, tmp_path / "sheet.png", max_subjects=3, side=55))
    assert sheet.size == (7 * 55, 22 + 3 * 55)
    third = torch.from_numpy(np.array(sheet))[22 + 110 :, :55]
    assert third.permute(2, 0, 1).equal(unknown.images[14])  # third picture of the first class
