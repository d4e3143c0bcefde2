"""The processors of systems that tell a process's own, and of those that do not; threads do not wait long."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from fer_mtl.processors import SPIN, available_processors

DECIDE = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def test_with_and_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert available_processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert available_processors() == 8


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP along on Linux alone")
@pytest.mark.parametrize(
    ("asked", "spin"),
    [({}, str(SPIN)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_threads_of_the_command_wait_briefly_unless_told_otherwise(asked: dict[str, str], spin: str) -> None:
    """As OpenMP itself says once it is loaded, so that setting it too late would be seen."""
    program = "import sys; from fer_mtl.cli import main; sys.exit(main(['datasets', 'jaffe']))"
    others = {name: value for name, value in os.environ.items() if name not in DECIDE}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=others | asked | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    if found is None:
        pytest.skip("this torch has another OpenMP")
    assert found[1] == spin
