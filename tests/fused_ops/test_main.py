"""`python -m fused_ops doctor`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import fused_ops
from fused_ops import __main__ as main
from fused_ops import native


def test_doctor_without_natives() -> None:
    """In its own process, since a library that is loaded stays loaded."""
    command = [sys.executable, "-m", "fused_ops", "doctor"]
    environment = {**os.environ, "FUSED_OPS_NATIVE": "0"}
    environment.pop("FUSED_OPS_BACKEND", None)
    result = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the native CPU library is switched off by FUSED_OPS_NATIVE=0" in result.stdout
    assert re.search(r"^FusedSelectiveShare +served by reference, ", result.stdout, re.MULTILINE)
    assert "other backends serve instead" in result.stdout
    strict = subprocess.run([*command, "--strict"], env=environment, capture_output=True, check=False)
    assert strict.returncode == 1


def test_doctor_says_what_triton_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(main, "_version", lambda name: "3.9.0")
    for interpreting, where in ((False, "for cards from sm_80 on"), (True, "in the interpreter, on request")):
        monkeypatch.setattr(main.triton_support, "interpreting", lambda value=interpreting: value)
        assert main._triton() == f"3.9.0: norm_act norm_act_pool selective_share {where}"
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None)
    assert main._triton() == "not installed"


def test_every_public_module_is_checked() -> None:
    public = {getattr(fused_ops, name) for name in fused_ops.__all__}
    modules = {item.__name__ for item in public if isinstance(item, type) and issubclass(item, nn.Module)}
    assert modules == set(main._PROBLEMS)


def test_self_check_is_right_here() -> None:
    findings = {name: finding for name, finding, right in main.self_check() if not right}
    assert not findings


def test_wrong_op_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The check can fail: with a forward that depends on the backend, and with one that raises."""
    forward = fused_ops.FusedConvFLU.forward

    def wrong(self: nn.Module, x: object, y: object) -> object:
        return forward(self, x, y) * (1 if fused_ops.backends.requested() == "reference" else 1.01)

    monkeypatch.setattr(fused_ops.FusedConvFLU, "forward", wrong)
    monkeypatch.setattr(fused_ops.FusedSelectiveShare, "forward", None)
    assert main.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^FusedConvFLU .*<-- WRONG$", printed, re.MULTILINE)
    assert re.search(r"^FusedSelectiveShare +TypeError: .*<-- WRONG$", printed, re.MULTILINE)
    assert printed.splitlines()[-1].startswith("Not well: FusedSelectiveShare, FusedConvFLU")


def test_stale_libraries_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a source tree: libraries older than a C++ source."""
    monkeypatch.setattr(native, "FOLDER", tmp_path / "fused_ops/lib")
    source = tmp_path / "csrc/toy/cpu.cpp"
    record = native.FOLDER / "build.json"
    for path in (source, record):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(record, (1000, 1000))
    os.utime(source, (999, 999))
    assert main._stale() is None
    os.utime(source, (1001, 1001))
    assert main._stale() == "csrc/toy/cpu.cpp"


def test_cpu_library_row_names_what_was_built(capsys: pytest.CaptureFixture[str]) -> None:
    status = native.cpu_library()
    if not status.loaded:
        pytest.skip(status.reason)
    assert main._library(status).startswith("loaded: ")
    assert "baseline" in main._library(status)
