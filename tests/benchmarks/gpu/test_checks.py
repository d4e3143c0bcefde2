"""The checks of ``make gpu`` find what is wrong; on a card they run as tests, too."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cases import OPS, Shape
from benchmarks.gpu import behaviour, checks, sanitizer
from benchmarks.gpu.checks import Spec, check
from benchmarks.gpu.found import Found
from benchmarks.gpu.stages import Context, Failed, LeftOut
from benchmarks.problems import make_problem
from fused_ops import backends

SPEC = Spec("batch_norm_act", Shape(2, 8, 5), "float32", "channels_last", "reference")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("checks", "cpu", True, 100, tmp_path)


@pytest.fixture
def wrong_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of norm_act is off by a tenth of a percent."""
    table = {op: dict(found) for op, found in backends._implementations.items()}
    right = table["norm_act"]["reference"].run
    off = backends.Implementation(
        lambda *args: (1.001 * right(*args)[0], *right(*args)[1:]), lambda *args: None
    )
    table["norm_act"]["reference"] = off
    monkeypatch.setattr(backends, "_implementations", table)


def test_a_right_case_is_right() -> None:
    found = check(SPEC, "cpu")
    assert (found.state, found.name) == ("right", SPEC.name) and 0 < found.error_roundings < 16  # type: ignore[operator]


@pytest.mark.usefixtures("wrong_reference")
def test_a_wrong_case_is_wrong(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(SPEC, "cpu")
    assert found.state == "wrong" and "result 0 [2, 8, 5, 5]: " in found.detail
    with pytest.raises(Failed, match=r"\d+ of \d+ checks are wrong") as caught:
        checks.run(context)
    assert caught.value.result["counts"]["wrong"] > 0
    assert "wrong: batch_norm_act b2-c8-s5" in capsys.readouterr().out


def test_a_refused_case_is_no_mistake() -> None:
    spec = Spec("batch_norm_act", Shape(2, 8, 5), "float32", "channels_last", "cuda")
    found = check(spec, "cpu")
    assert (found.state, found.detail) == ("refused", "the tensors are on cpu")


def test_a_crash_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any) -> Any:
        raise IndexError("beyond the end")

    monkeypatch.setattr(checks, "make_problem", crash)
    assert (check(SPEC, "cpu").state, check(SPEC, "cpu").detail) == ("wrong", "IndexError: beyond the end")


@pytest.mark.slow
def test_cases_run_side_by_side_as_alone(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = list(checks.specs(True, ("reference", "cuda")))[:6]
    found = checks._side_by_side(wanted, context, time.monotonic() + 300)
    assert sorted((each.name, each.state) for each in found) == sorted(
        (spec.name, "right" if spec.backend == "reference" else "refused") for spec in wanted
    )
    assert (context.scratch / "checks.partial.json").exists()
    assert checks._side_by_side(wanted, context, time.monotonic()) == []  # time was up at once
    assert f"not done:\n  {wanted[0].name}\n" in capsys.readouterr().out


class Fatal(Spec):
    """A case that its process does not survive."""

    def __reduce__(self) -> Any:
        return os.abort, ()


@pytest.mark.slow
def test_a_case_that_takes_its_process_down_costs_the_others_nothing(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "WORKERS", 1)
    fatal = Fatal(**vars(SPEC))
    found = checks._side_by_side([fatal, SPEC], context, time.monotonic() + 300)
    assert [(each.state, each.detail) for each in found] == [
        ("wrong", "it took its process down"), ("right", ""),
    ]  # fmt: skip


def test_a_process_that_the_card_does_not_answer_any_more_is_told_apart(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bad access to memory every later call in the process fails, whatever it is."""

    def fail(*args: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert checks._check_apart(SPEC, "cpu")[1]
    monkeypatch.setattr(checks, "error_in_roundings", fail)
    monkeypatch.setattr(checks, "make_problem", lambda case, device: make_problem(case, "cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found, usable = checks._check_apart(SPEC, "cuda")
    assert found.state == "wrong" and "illegal memory access" in found.detail and usable
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert not checks._check_apart(SPEC, "cuda")[1]

    monkeypatch.setattr(behaviour, "CHECKS", {"first": fail, "second": lambda context, backend: None})
    monkeypatch.setattr(behaviour, "probe", lambda context: None)
    states = {each.name: (each.state, each.detail) for each in behaviour.run(replace(context, device="cuda"))}
    assert states.pop("first, triton")[0] == "wrong"
    lost = ("refused", "the card answers nothing since: first, triton")
    assert states == {"first, cuda": lost, "second, triton": lost, "second, cuda": lost}


def test_a_check_that_hangs_costs_nothing_that_was_found(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[str]] = []

    def look(context: Context, backend: str) -> None:
        text = (context.scratch / "checks.partial.json").read_text()
        kept.append([found["name"] for found in json.loads(text)["checks"]])

    monkeypatch.setattr(behaviour, "CHECKS", {"first": look})
    behaviour.run(context, [Found("an op", "right")])
    assert kept == [["an op"], ["an op", "first, reference"]]


def test_every_op_dtype_and_layout_is_checked_for_both_backends() -> None:
    found = list(checks.specs(False, ("triton", "cuda")))
    assert len(set(found)) == len(found)
    assert {spec.op for spec in found} == {op.name for op in OPS.values() if op.suite != "fersnet_step"}
    assert {spec.dtype for spec in found} == {"float32", "float16", "bfloat16"}
    assert {(spec.layout, spec.backend) for spec in found} == {
        (layout, backend) for layout in checks.LAYOUTS for backend in ("triton", "cuda")
    }


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("same bits", "two calls differ"),
        ("autocast", "the output is torch.float32, not torch.bfloat16"),
        ("slices", "differs by"),
    ],
)
def test_misbehaviour_is_found(
    what: str, complaint: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a backend that rounds by chance, ignores autocast, or reads what lies beyond a slice."""
    right = behaviour.results

    def noisy(module: torch.nn.Module, inputs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return tuple(result * (1 + 1e-3 * torch.rand(())) for result in right(module, inputs))

    monkeypatch.setattr(behaviour, "results", noisy)
    found = {each.name: each for each in behaviour.run(context)}[f"{what}, reference"]
    assert found.state == "wrong" and complaint in found.detail


def test_without_the_tool_the_sanitizer_is_left_out(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitizer, "find_tool", lambda: None)
    with pytest.raises(LeftOut, match="compute-sanitizer is not installed"):
        sanitizer.run(Context("sanitizer", "cpu", False, 100, context.scratch))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (sanitizer.ERROR_CODE, "memcheck found errors: .*2 errors"),
        (1, "ended with code 1"),
        ("$(sleep 6)", "time was up within a call"),
    ],
)
def test_what_the_sanitizer_finds_fails(
    code: int | str, message: str, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '========= ERROR SUMMARY: 2 errors'\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert sanitizer.find_tool() == str(tool)
    began = time.monotonic()
    with pytest.raises(Failed, match=message) as caught:
        sanitizer.run(Context("sanitizer", "cpu", False, 3, tmp_path))
    assert "2 errors" in caught.value.result["summary"][-1]  # also of what was ended
    assert time.monotonic() - began < 5


def test_the_small_checks_end_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    """So that the tool which watches them can say what it saw."""
    with pytest.raises(SystemExit, match="no call was served"):
        checks.small("cpu", time.monotonic())
    assert capsys.readouterr().out == "0 calls, 0 refused, 20 left out for want of time\n"


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("op", [op for op in OPS if op != "fersnet_step"])
def test_on_a_card(op: str, backend: str) -> None:
    for shape in checks.SHAPES:
        for layout in checks.LAYOUTS:
            found = check(Spec(op, shape, "bfloat16", layout, backend), "cuda")
            assert found.state != "wrong", found


@pytest.mark.gpu
@pytest.mark.parametrize("name", behaviour.CHECKS)
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_behaviour_on_a_card(name: str, backend: str, tmp_path: Path) -> None:
    try:
        with backends.use(backend):
            behaviour.probe(Context("checks", "cuda", False, 600, tmp_path))
            behaviour.CHECKS[name](Context("checks", "cuda", False, 600, tmp_path), backend)
    except behaviour.Skipped as reason:
        pytest.skip(str(reason))
