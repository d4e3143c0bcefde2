from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_after_clean_the_libraries_are_built_again(tmp_path: Path) -> None:
    """They lie in the source tree, from where `make clean` takes them."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt", "constraints-cpu.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    (tmp_path / ".venv/.installed-auto").touch()

    def make(*arguments: str) -> str:
        command = ["make", "-C", str(tmp_path), "FUSED_OPS_BUILD=auto", *arguments]
        # Those that a `make test` hands down may name another environment, which is not to be cleaned.
        env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
        return subprocess.run(command, text=True, capture_output=True, check=True, env=env).stdout

    assert "-e '.[dev]'" not in make("-n", "test")
    make("clean")
    assert "-e '.[dev]'" in make("-n", "test")
