from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.pictures import to_image
from fer_mtl.training.synthetic import (
    FIELDS,
    check_drawn_by,
    check_subjects,
    join,
    load_synthetic,
    read_manifest,
)


def write_manifest(folder: Path, faces: FaceSet, count: int = 3, **changes: Any) -> Path:
    """The first faces of a set as if they had been synthesised."""
    lines = []
    for i in range(count):
        name = f"face{i}.png"
        (folder / name).write_bytes(to_image(faces.images[i].float() / 255))
        line = {
            "file": name,
            "expression": "fear",
            "subject": faces.subjects[i],
            "source": faces.sources[i],
            "source_expression": faces.classes[int(faces.labels[i])],
            "confidence": 0.9,
            "identity": 0.8,
            "run": "some/run",
            "seen": ["P0000", "P0001"],
        }
        lines.append(json.dumps(line | changes))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "manifest.jsonl"


def test_faces_come_back_as_they_were_written(faces: FaceSet, tmp_path: Path) -> None:
    write_manifest(tmp_path, faces)
    found = load_synthetic(tmp_path, faces)
    assert found.labels.tolist() == [faces.classes.index("fear")] * 3
    assert found.subjects == faces.subjects[:3]
    assert torch.equal(found.images, faces.images[:3])


def test_faces_have_the_channels_of_the_real_ones(faces: FaceSet, tmp_path: Path) -> None:
    grey = replace(faces, images=faces.images.float().mean(1, keepdim=True).round().to(torch.uint8))
    write_manifest(tmp_path, grey)
    assert torch.equal(load_synthetic(tmp_path, grey).images, grey.images[:3])


def test_a_face_of_a_stranger_is_refused(faces: FaceSet, tmp_path: Path) -> None:
    file = write_manifest(tmp_path, faces)
    others = faces.subset([i for i, subject in enumerate(faces.subjects) if subject != "P0000"])
    with pytest.raises(ValueError, match="1 subjects who are not training subjects of this fold: P0000"):
        load_synthetic(file, others)
    check_subjects([], [], "nothing")


def test_a_face_drawn_by_who_knows_the_tested_is_refused(faces: FaceSet, tmp_path: Path) -> None:
    """Line by line: also where a manifest was joined from two."""
    file = write_manifest(tmp_path, faces)
    check_drawn_by(tmp_path, ["P0002", "P0003"])
    lines = file.read_text().splitlines()
    other = json.loads(lines[2]) | {"run": "other/run", "seen": ["P0002"]}
    file.write_text("\n".join([*lines[:2], json.dumps(other)]) + "\n")
    with pytest.raises(ValueError, match=r"manifest.jsonl: face2.png was drawn by other/run.* 1 .*: P0002"):
        check_drawn_by(tmp_path, ["P0002", "P0003"])
    del other["seen"]
    file.write_text(json.dumps(other) + "\n")
    with pytest.raises(ValueError, match=r"line 1: lacks seen.*run fer-mtl balance again"):
        check_drawn_by(tmp_path, [])


def test_an_expression_the_data_lacks_is_refused(faces: FaceSet, tmp_path: Path) -> None:
    file = write_manifest(tmp_path, faces, expression="awe")
    with pytest.raises(ValueError, match="shows awe; the data shows anger"):
        load_synthetic(file, faces)


def test_a_bad_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "manifest.jsonl"
    with pytest.raises(FileNotFoundError, match="no manifest of synthetic faces"):
        read_manifest(tmp_path)
    file.write_text("")
    with pytest.raises(ValueError, match="lists no face"):
        read_manifest(file)
    good = json.dumps(dict.fromkeys(FIELDS, ""))
    file.write_text(good + "\n{\n")
    with pytest.raises(ValueError, match=r"manifest.jsonl, line 2: not JSON"):
        read_manifest(file)
    file.write_text(good + '\n{"file": "a.png"}\n')
    with pytest.raises(ValueError, match="line 2: lacks expression, subject"):
        read_manifest(file)


def test_only_sets_of_one_kind_are_joined(faces: FaceSet) -> None:
    both = join(faces.subset([0, 1]), faces.subset([2]))
    assert torch.equal(both.images, faces.images[:3]) and both.sources == faces.sources[:3]
    grey = FaceSet("grey", faces.classes, faces.images[:1, :1], faces.labels[:1], ["a"], ["b"])
    with pytest.raises(ValueError, match="sets to join must agree"):
        join(faces, grey)
