from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_mtl.data import FaceSet
from fer_mtl.faces.detector import Detector, make_detector
from fer_mtl.faces.face import Face
from fer_mtl.faces.prepare import STATE, Job, Outcome, prepare, save
from fer_mtl.files import alone

MakeJobs = Callable[..., list[Job]]


class FakeDetector:
    """Finds a face where the picture is bright, by its own rule: the corner's red level says what.

    0: none; 50: a box alone; 100: eyes; 150: five points and a smaller face; above: an error.
    """

    calls = 0

    def detect(self, image: np.ndarray) -> list[Face]:
        FakeDetector.calls += 1
        kind = int(image[0, 0, 0]) // 50
        box = (10.0, 10.0, 60.0, 60.0)
        points = ((30.0, 30.0), (50.0, 30.0), (40.0, 45.0), (33.0, 55.0), (47.0, 55.0))
        if kind > 3:
            raise OSError("out of order")
        small = Face((70, 70, 5, 5), ((71.0, 71.0), (73.0, 71.0)))
        return [[], [Face(box)], [Face(box, points[:2])], [small, Face(box, points)]][kind]


@pytest.fixture
def make_jobs(tmp_path: Path, faces: FaceSet) -> MakeJobs:
    """Jobs for drawn faces of 80 x 80 pixels whose corner has the given levels."""

    def make(*levels: int) -> list[Job]:
        jobs = []
        for i, level in enumerate(levels):
            face = faces.images[i % len(faces)].permute(1, 2, 0).numpy()
            picture = np.array(Image.fromarray(face).resize((80, 80)))
            picture[0, 0] = level
            name = f"Bild ü{i}/{level}.png"
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
            jobs.append(Job(name, name, path))
        return jobs

    return make


def run(
    jobs: list[Job], out: Path, make: Callable[[], Detector] = FakeDetector, **options: Any
) -> list[Outcome]:
    return prepare(jobs, out, make, settings={"detector": "fake"}, **options)


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_faces_are_cropped_and_what_failed_is_listed(make_jobs: MakeJobs, tmp_path: Path) -> None:
    jobs = make_jobs(0, 50, 100, 150, 200)
    (tmp_path / "in" / "empty.png").touch()
    jobs.append(Job("empty.png", "empty.png", tmp_path / "in" / "empty.png"))
    outcomes = run(jobs, tmp_path / "out")
    assert [o.aligned for o in outcomes] == ["", "box", "eyes", "five points", "", ""]
    assert [o.faces for o in outcomes] == [0, 1, 1, 2, 0, 0]
    for outcome in outcomes:
        target = tmp_path / "out" / outcome.target
        assert target.is_file() == bool(outcome.aligned)
        assert not outcome.aligned or Image.open(target).size == (110, 110)
    failed = rows(tmp_path / "out" / STATE / "failed.csv")
    assert [row[0] for row in failed] == ["file", jobs[0].name, jobs[4].name, "empty.png"]
    assert [row[1] for row in failed][:3] == ["reason", "no face found", "out of order"]
    assert "the file is empty" in failed[3][1]
    assert len(rows(tmp_path / "out" / STATE / "done.csv")) == 4


def test_the_largest_face_is_taken(make_jobs: MakeJobs, tmp_path: Path) -> None:
    (job,) = make_jobs(150)
    run([job], tmp_path / "out")
    small = align_whole(job, Face((70, 70, 5, 5), ((71.0, 71.0), (73.0, 71.0))))
    assert np.asarray(Image.open(tmp_path / "out" / job.target)).tolist() != small


def align_whole(job: Job, face: Face) -> list:
    from fer_mtl.faces.align import align

    assert isinstance(job.picture, Path)
    return np.asarray(align(Image.open(job.picture), face)).tolist()


def test_eyes_may_be_required(make_jobs: MakeJobs, tmp_path: Path) -> None:
    outcomes = run(make_jobs(50, 100), tmp_path / "out", require_eyes=True)
    assert [(o.aligned, o.reason) for o in outcomes] == [("", "no eyes found"), ("eyes", "")]


def test_a_stopped_run_goes_on_where_it_was(
    make_jobs: MakeJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, out = make_jobs(100, 150, 0, 100), tmp_path / "out"
    real = FakeDetector.detect

    def stop_at_third(self: FakeDetector, image: np.ndarray) -> list[Face]:
        if FakeDetector.calls == 2:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(FakeDetector, "calls", 0)
    with monkeypatch.context() as patch:
        patch.setattr(FakeDetector, "detect", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            run(jobs, out)
    assert (out / STATE / "failed.csv").is_file()
    first = (out / jobs[0].target).stat().st_mtime_ns
    (out / jobs[1].target).unlink()  # somebody deleted it: it is made again
    with (out / STATE / "done.csv").open("a") as file:
        file.write(f"{jobs[3].name},{jobs[3].target},ey")  # a row cut off by a crash
    monkeypatch.setattr(FakeDetector, "calls", 0)
    outcomes = run(jobs, out)
    assert FakeDetector.calls == 3
    assert [o.aligned for o in outcomes] == ["eyes", "five points", "", "eyes"]
    assert (out / jobs[0].target).stat().st_mtime_ns == first
    monkeypatch.setattr(FakeDetector, "calls", 0)
    assert run(jobs, out) == outcomes
    assert FakeDetector.calls == 1  # only what had failed is tried again


def test_processes_give_the_same_results(
    make_jobs: MakeJobs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = make_jobs(*range(20))
    jobs[7] = Job("gone.png", "gone.png", tmp_path / "gone.png")
    (tmp_path / "in" / jobs[8].name).write_bytes(b"P4 9500 9500\n")  # large, with nothing but its head
    make = partial(make_detector, "whole")
    with pytest.warns(Image.DecompressionBombWarning):  # as long as nobody expects it
        alone = run(jobs, tmp_path / "alone", make)
    together = run(jobs, tmp_path / "together", make, workers=2)
    assert alone == together and together[7].reason and together[8].reason
    assert "DecompressionBombWarning" not in capfd.readouterr().err
    for job in jobs:
        a, b = tmp_path / "alone" / job.target, tmp_path / "together" / job.target
        assert a.is_file() == b.is_file() and (not a.is_file() or a.read_bytes() == b.read_bytes())


def test_other_settings_and_foreign_folders_are_refused(make_jobs: MakeJobs, tmp_path: Path) -> None:
    jobs, out = make_jobs(100), tmp_path / "out"
    run(jobs, out)
    assert json.loads((out / STATE / "settings.json").read_text())["size"] == 110
    with pytest.raises(ValueError, match="out was prepared with size 110, not 96"):
        run(jobs, out, size=96)
    with pytest.raises(ValueError, match="was not made by"):
        run(jobs, tmp_path / "in")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size must be an int of at least 16"),
        ({"workers": 0}, "workers must be an int of at least 1"),
    ],
)
def test_bad_options(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run([], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_detector_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="detector must be"):
        run([], tmp_path / "out", partial(make_detector, "hog"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "PNG"),
        ("a.JPEG", "JPEG"),
        ("a.jpg", "JPEG"),
        ("a.bmp", "BMP"),
        ("a.tiff", "TIFF"),
        ("a.webp", "WEBP"),
    ],
)
def test_pictures_keep_their_format(name: str, kind: str, tmp_path: Path, faces: FaceSet) -> None:
    picture = Image.fromarray(faces.images[0].permute(1, 2, 0).numpy())
    save(picture, tmp_path / "new" / name)
    again = Image.open(tmp_path / "new" / name)
    assert again.format == kind
    assert abs(np.asarray(again, int) - np.asarray(picture, int)).mean() < 4
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more_ends_the_work(make_jobs: MakeJobs, tmp_path: Path, workers: int) -> None:
    """It is no fault of the pictures, which would be listed as failed one after the other, and the command
    would end well where there is room for the list. Then the same command goes on."""
    jobs, out = make_jobs(*[100] * 9), tmp_path / "out"
    block = out / jobs[4].target
    block.parent.parent.mkdir(parents=True)
    make = partial(make_detector, "whole")
    run(jobs[:4], out, make)
    block.parent.write_text("in the way of a folder, as a full disk is")
    with pytest.raises(FileExistsError, match=r"Bild ü4"):
        run(jobs, out, make, workers=workers)
    block.parent.unlink()
    assert all(outcome.aligned for outcome in run(jobs, out, make))


def test_what_a_full_disk_has_left_is_no_strange_folder(
    make_jobs: MakeJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    jobs, out = make_jobs(100), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("fer_mtl.files.os.fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*settings.json'"):
            run(jobs, out)
    assert run(jobs, out)[0].aligned == "eyes"


def test_a_row_cut_off_within_a_letter_is_done_again(make_jobs: MakeJobs, tmp_path: Path) -> None:
    jobs, out = make_jobs(100, 150), tmp_path / "out"
    outcomes = run(jobs, out)
    table = out / STATE / "done.csv"
    head, first, second = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(head + first + second[: second.index("ü".encode()) + 1])
    assert run(jobs, out) == outcomes
    assert table.read_bytes() == head + first + second


def test_broken_settings_are_named(make_jobs: MakeJobs, tmp_path: Path) -> None:
    run(make_jobs(100), tmp_path / "out")
    (tmp_path / "out" / STATE / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings.json is not JSON"):
        run(make_jobs(100), tmp_path / "out")


def test_two_at_once_are_refused(make_jobs: MakeJobs, tmp_path: Path) -> None:
    """Each found the other's half-written pictures, and called them failed."""
    pytest.importorskip("fcntl")
    jobs = make_jobs(100)
    with alone(tmp_path / "out"), pytest.raises(BlockingIOError, match="another process is at work in"):
        run(jobs, tmp_path / "out")
    assert run(jobs, tmp_path / "out")[0].aligned == "eyes"
