"""The processors of systems that tell a process's own, and of those that do not."""

from __future__ import annotations

import os

import pytest

from fer_mtl.processors import available_processors


def test_with_and_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert available_processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert available_processors() == 8
