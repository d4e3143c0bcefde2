from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_mtl.workers import processes

# Says who its workers are once both are at work, and then waits for them.
PROGRAM = """
import os, sys, time
from pathlib import Path
from fer_mtl.workers import busy, processes, unwanted

def start():
    pass

def work(folder):
    with busy:
        Path(folder, str(os.getpid())).touch()
        if not unwanted.wait(60):
            raise RuntimeError("nobody ended it")
        Path(folder, f"{os.getpid()}-saved").touch()

if __name__ == "__main__":
    with processes(3, start) as pool:
        futures = [pool.submit(work, sys.argv[1]) for _ in range(2)]
        while len(os.listdir(sys.argv[1])) < 2:
            time.sleep(0.02)
        print("ready", flush=True)
        for future in futures:
            future.result()
"""


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended may wait for its parent to notice."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.parametrize("victim", ["parent", "worker", "parent by Ctrl-C alone"])
def test_workers_save_and_end_with_the_one_who_started_them(tmp_path: Path, victim: str) -> None:
    script, pids = tmp_path / "program.py", tmp_path / "pids"
    script.write_text(PROGRAM)
    pids.mkdir()
    program = subprocess.Popen(
        [sys.executable, str(script), str(pids)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
        workers = [int(path.name) for path in pids.iterdir()]
        if victim == "worker":
            os.kill(workers[0], signal.SIGKILL)
        else:
            program.send_signal(signal.SIGINT if "Ctrl-C" in victim else signal.SIGKILL)
        program.wait(30)
        for _ in range(500):
            if not any(map(alive, workers)):
                break
            time.sleep(0.02)
        assert not any(map(alive, workers))
        saved = {path.name for path in pids.glob("*-saved")}
        assert saved == {f"{pid}-saved" for pid in (workers[1:] if victim == "worker" else workers)}
    finally:
        program.kill()
        program.communicate()


def test_a_system_without_semaphores_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without /dev/shm: their own error has no name in it."""

    def no_semaphore(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("fer_mtl.workers.ProcessPoolExecutor", no_semaphore)
    with (
        pytest.raises(OSError, match=r"/dev/shm .*\(Read-only file system\); --workers 1"),
        processes(2, print),
    ):
        pass
