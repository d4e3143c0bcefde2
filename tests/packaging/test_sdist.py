"""A source distribution is the whole repository: wheels and tests come out of it as from a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from build_support import backend; backend.build_sdist(sys.argv[1])"


def tracked() -> set[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout, or there is no git")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:  # as in a container, where the checkout belongs to somebody else
        pytest.skip(listed.stderr.strip())
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


def test_an_sdist_has_every_file(tmp_path: Path) -> None:
    files, tree = tracked(), tmp_path / "tree"
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=tree, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert files - packed == {".gitignore"}
