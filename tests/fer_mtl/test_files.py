from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from fer_mtl.files import alone, append_text, locked, replacing, write_json, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    write_text(path, "neu: ä")
    assert path.read_text(encoding="utf-8") == "neu: ä"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as file:
        file.write(b"half")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_after_it_could_be_encoded(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        write_json(path, {"accuracy": object()})
    assert json.loads(path.read_text()) == {"accuracy": 0.5}


def test_a_full_disk_is_said_of_the_file(tmp_path: Path) -> None:
    """A write that fails does not know the name of what it writes to."""
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*last.pt'"),
        replacing(tmp_path / "last.pt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_locked_for_as_long_as_the_block_runs(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert first and not second
    with locked(tmp_path) as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_of_a_file_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    append_text(path, "ä\n")
    append_text(path, "b\n")
    assert path.read_bytes() == "ä\nb\n".encode()
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        append_text(full, "c\n")


def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder = tmp_path / "new" / "run"
    with alone(folder):
        assert folder.is_dir()
        with (
            pytest.raises(BlockingIOError, match=r"another process is at work in .*run; wait"),
            alone(folder),
        ):
            pass
    with alone(folder):
        pass
