"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml  # type: ignore[import-untyped]

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module elsewhere


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` once the block has ended well, its bytes on the disk.

    When the block raises, ``path`` is left as it was and nothing else remains.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An ``OSError`` of the block that names no file, as a write to a full disk raises it, names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether no other process is in such a block for ``folder``, while the block runs. However a process
    ends, its lock ends with it and nothing remains in the folder.

    Where there are no such locks, as on Windows and some network file systems, everybody is first.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first = True
        except OSError as error:
            first = error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
        yield first
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make ``folder`` and keep it to this process while the block runs; ``BlockingIOError`` where another one
    is at work in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as first:
        if not first:
            raise BlockingIOError(f"another process is at work in {folder}; wait for it, or end it")
        yield


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    with naming(path), open(path, "a", newline="", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. ``ValueError`` names the file when it is not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def to_yaml(content: Any) -> str:
    """Plain dictionaries, lists, strings and numbers as YAML, in their own order."""
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. ``ValueError`` names the file when it is not one."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
