"""Freed memory is kept: a tensor of the same size comes without fresh pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from fer_mtl.memory import keep_freed_memory

print(int(keep_freed_memory()))
for _ in range(3):
    torch.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is set")
def test_large_tensors_come_without_fresh_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, faults = map(int, done.stdout.split())
    assert kept
    assert faults < 1000  # eight times 4096 pages by default
