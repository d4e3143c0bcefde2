from __future__ import annotations

import subprocess
import sys

from fer_mtl import cli


def test_the_package_runs_as_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "fer_mtl"], capture_output=True, text=True, check=False)
    assert ran.returncode == cli.BAD_INPUT and ran.stdout == f"{cli.usage()}\n"
