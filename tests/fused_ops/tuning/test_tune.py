"""The tuning loop, with a clock of its own, on an op whose kernels cost what the test says; the command."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fused_ops import __main__ as command
from fused_ops import backends, tuning
from fused_ops.triton_support import CARDS
from fused_ops.tuning import dispatch, search, tune, tune_calls
from fused_ops.tuning.ahead import Compilers
from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter
from tests.fused_ops.tuning.test_dispatch import measured

__all__ = ["measured"]  # the fixture

H100 = CARDS["sm_90"]
FACTS: dict[str, Any] = {"channels": 64, "itemsize": 4, "precision": "ieee", "even": 1, "gates": 1}
FAMILY = "selective_share.forward"


@dataclass
class Machine:
    """A card without a card: what was launched last, by whom, and what that takes."""

    launched: Mapping[str, Any] = field(default_factory=dict)
    tried: list[Mapping[str, Any]] = field(default_factory=list)
    cuda_seconds: float = 1.0

    def triton(self, x: Tensor, *_: Any) -> tuple[Tensor, ...]:
        self.launched = tuning.choose("sm_90", FAMILY, **FACTS)
        if self.launched["pixels"] > 64 or self.launched["warps"] > 8:
            raise RuntimeError("out of resource: shared memory")
        return (x + 1 if self.launched["stages"] == 3 else x,)

    def cuda(self, x: Tensor, *_: Any) -> tuple[Tensor, ...]:
        self.launched = {}
        return (x,)

    def clock(self, call: Callable[[], object]) -> float:
        """Best at 32 pixels, 4 warps and 3 stages; but 3 stages compute something else."""
        call()
        self.tried.append(self.launched)
        if not self.launched:
            return self.cuda_seconds
        off = [abs(math.log2(self.launched[name] / best)) for name, best in BEST.items()]
        return 1e-5 * (1 + sum(off))


BEST = {"pixels": 32, "warps": 4, "stages": 3}


@pytest.fixture
def machine(measured: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(backends, "_implementations", {})
    backends.register("selective_share", "triton", found.triton)
    backends.register("selective_share", "cuda", found.cuda)
    return found


@pytest.fixture
def call() -> search.Call:
    x = torch.ones(1, 64, 2, 2)
    return search.Call("a pair", "selective_share", (x, x, *[torch.empty(1, 1, 1, 1)] * 8, False, True, True))


def test_the_best_launch_that_computes_the_same_is_found(machine: Machine, call: search.Call) -> None:
    report = tune.tune([call], H100, machine.clock, 60, say=lambda line: None)
    (row,) = report.rows[FAMILY]
    assert row["when"] == FACTS
    assert (row["launch"]["pixels"], row["launch"]["warps"], row["launch"]["stages"]) == (32, 4, 2)
    assert not any(launch.get("stages") == 3 for launch in machine.tried)  # wrong: not even timed
    said = r"measured: .* tried(, [1-9] did not run|, [1-9] computed otherwise){2}; NVIDIA H100, torch .*"
    assert re.fullmatch(said, row["note"]), row["note"]
    assert not report.left_out and len(report.lines) == 2


def test_the_quicker_backend_is_written_down_and_then_goes_first(
    machine: Machine, call: search.Call, measured: Path
) -> None:
    machine.cuda_seconds = 1e-6
    assert "predicts" in dispatch.choose("selective_share", call.args).reason  # type: ignore[union-attr]
    report = tune.tune([call], H100, machine.clock, 60, say=lambda line: None)
    (row,) = report.rows["selective_share.backend"]
    assert row["launch"] == {"backend": "cuda"}
    path = measured / "sm_90.json"
    tune.write(path, tune.merged(tuning.table("sm_90"), report.rows))
    tuning.forget_tables()
    dispatch.forget_choices()
    choice = dispatch.choose("selective_share", call.args)
    assert choice is not None and choice.order == ("cuda", "triton")
    assert "selective_share.backend: row 1 of sm_90.json (measured: 'cuda' 1.0 us, 'triton' " in choice.reason
    assert tuning.choose("sm_90", FAMILY, **FACTS)["pixels"] == 32


def test_new_rows_replace_those_of_the_same_conditions(tmp_path: Path) -> None:
    old = {"family": [{"when": {"c": 1}, "launch": {"a": 1}}, {"when": {}, "launch": {"a": 2}}], "other": []}
    new = {"family": [{"when": {"c": 1}, "launch": {"a": 3}, "note": 'said "so"'}]}
    content = tune.merged(old, new)
    assert [row["launch"]["a"] for row in content["family"]] == [3, 2]
    tune.write(tmp_path / "folder" / "table.json", content)
    assert json.loads((tmp_path / "folder" / "table.json").read_text()) == content
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["table.json"]


def test_it_stops_when_time_is_up_and_says_what_was_left_out(machine: Machine, call: search.Call) -> None:
    report = tune.tune([call], H100, machine.clock, 0, say=lambda line: None)
    assert not report.rows and len(report.left_out) == 2
    assert FAMILY in report.left_out[0] and report.left_out[1] == "backends of a pair"


def test_what_was_found_is_kept_as_it_comes(machine: Machine, call: search.Call) -> None:
    """The process may be ended while a kernel is compiled."""
    kept: list[tuple[int, list[str]]] = []

    def keep(report: tune.Report) -> None:
        kept.append((len(report.lines), sorted(report.rows)))

    tune.tune([call], H100, machine.clock, 60, lambda line: None, keep)
    assert kept == [(1, [FAMILY]), (2, ["selective_share.backend", FAMILY])]


def test_all_that_is_tried_was_compiled_ahead(machine: Machine, call: search.Call) -> None:
    announced: list[Mapping[str, Any]] = []

    class Noting(Compilers):
        def compile(self, calls: Iterable[Callable[[], object]], seconds: float) -> None:
            assert 0 < seconds <= 60
            for each in calls:
                with contextlib.suppress(RuntimeError):
                    each()
                announced.append(machine.launched)

    def clock(work: Callable[[], object]) -> float:
        seconds = machine.clock(work)
        assert not machine.tried[-1] or machine.tried[-1] in announced
        return seconds

    report = tune.tune([call], H100, clock, 60, lambda line: None, compilers=Noting(H100, 0))
    assert report.rows[FAMILY][0]["launch"]["pixels"] == 32
    assert len(announced) < 40


def test_a_kernel_that_fails_does_not_end_it(machine: Machine, call: search.Call) -> None:
    other = search.Call("another pair", call.op, tuple(call.args))

    def clock(work: Callable[[], object]) -> float:
        if work == call.run:
            raise RuntimeError("PassManager::run failed\nmore")
        return machine.clock(work)

    report = tune.tune([call, other], H100, clock, 60, say=lambda line: None)
    assert report.lines[0].endswith(": not measured: RuntimeError: PassManager::run failed")
    assert report.lines[1] == (
        "a pair: 'triton' cannot: RuntimeError: PassManager::run failed, "
        "'cuda' cannot: RuntimeError: PassManager::run failed"
    )
    assert report.lines[2].startswith("another pair: 'triton' ") and len(report.lines) == 3
    assert [what.partition(": ")[0] for what in report.failed[1:]] == [
        "a pair by 'triton'",
        "a pair by 'cuda'",
    ]


def test_a_backend_that_refuses_is_no_candidate(
    machine: Machine, call: search.Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.register("selective_share", "cuda", machine.cuda, lambda *args: "there is no library")
    report = tune.tune([call], H100, machine.clock, 60, say=lambda line: None)
    assert "selective_share.backend" not in report.rows
    assert report.lines[-1].endswith("'cuda' cannot: there is no library")


@needs_triton
def test_the_loop_tunes_tritons_own_kernels() -> None:
    pass_in_interpreter(Path(__file__).parent / "tune_interpreted.py")


def test_neighbours_change_one_parameter_by_one_step() -> None:
    launch = {"kernel": "unit", "pixels": 64, "warps": 16}
    assert [found["pixels"] for found in search.neighbours(launch, "pixels")] == [32, 128]
    assert [found["warps"] for found in search.neighbours(launch, "warps")] == [8]
    assert list(search.neighbours(launch, "depth")) == []


def test_every_tuned_parameter_of_the_tables_stands_among_its_steps() -> None:
    """Else it has no neighbours, and the search leaves it as it is."""
    found = {
        (name, value)
        for path in tuning.FOLDER.glob("*.json")
        for family, rows in json.loads(path.read_text()).items()
        for row in rows
        for name, value in row["launch"].items()
        if not family.endswith(".backend") and name != "kernel"
    }
    assert {(name, value) for name, value in found if value not in search.STEPS.get(name, ())} == set()


def test_the_calls_are_those_of_both_ops_and_the_reference_serves_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    norms = [norm._replace(channels=32, side=4) for norm in tune_calls.NORMS]
    monkeypatch.setattr(tune_calls, "NORMS", norms)
    found = tune_calls.calls(torch.device("cpu"), batch=2, shares=((8, 3),))
    assert {call.op for call in found} == {
        "selective_share", "selective_share_backward", "norm_act", "norm_act_backward", "norm_act_pool",
        "norm_act_pool_backward",
    }  # fmt: skip
    names = {call.name for call in found if "norm_act adain" in call.name}
    assert len(names) == len(tune_calls.DTYPES) * len(tune_calls.LAYOUTS) * 2
    for call in found:
        with backends.use("reference"):
            assert all(result.isfinite().all() for result in call.run() if result.dtype != torch.uint8)
        family, facts = dispatch.measured_row(call.op, call.args)
        assert family.endswith(".backend") and facts["card"] == "NVIDIA H100"


def test_no_measured_choice_of_one_call_is_taken_for_another() -> None:
    """The true shapes, but for the batch; the calls of the pairs come first."""
    found = tune_calls.calls(torch.device("cpu"), batch=2)
    assert [call.op for call in found[:3]] == [
        "selective_share", "selective_share_backward", "selective_share",
    ]  # fmt: skip
    assert len({call.name for call in found}) == len(found)
    rows = [repr(dispatch.measured_row(call.op, call.args)) for call in found]
    assert len(set(rows)) == len(rows)


def test_a_measured_choice_for_the_pooling_backward_is_taken(measured: Path) -> None:
    grad, winner = torch.ones(2, 8, 3, 3), torch.zeros(2, 8, 3, 3, dtype=torch.uint8)
    args = (grad, None, winner, 6, 6, 1, 0.0)
    family, facts = dispatch.measured_row("norm_act_pool_backward", args)
    rows = {family: [{"note": "timed", "when": facts, "launch": {"backend": "cuda"}}]}
    with tuning.table_given("sm_90", rows):
        dispatch.forget_choices()
        choice = dispatch.choose("norm_act_pool_backward", args)
    assert choice is not None and choice.order[0] == "cuda" and "timed" in choice.reason


def test_without_a_card_the_command_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["tune"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("fused_ops tune needs a card that Triton serves: torch ") and text.count("\n") == 1


def test_no_seconds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["tune", "--seconds", "0"])
    assert "--seconds must be above 0, got 0" in capsys.readouterr().err


def test_the_command_writes_the_table_of_its_card(
    machine: Machine, call: search.Call, measured: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(tune, "why_no_card", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("fused_ops.triton_support.card_of", lambda device: H100)
    monkeypatch.setattr(tune_calls, "calls", lambda device: [call])
    monkeypatch.setattr(tune, "time_on_card", machine.clock)
    assert command.main(["tune"]) == 0
    assert "2 rows measured on NVIDIA H100, written to " in capsys.readouterr().out
    assert tuning.choose("sm_90", FAMILY, **FACTS)["pixels"] == 32

    def clock(work: Callable[[], object]) -> float:
        seconds = machine.clock(work)
        if not machine.launched:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return seconds

    monkeypatch.setattr(tune, "time_on_card", clock)
    assert command.main(["tune"]) == 1
    told = capsys.readouterr()
    assert "rows measured on NVIDIA H100, written to " in told.out
    assert told.err.startswith("1 could not be measured:\n  a pair by 'cuda': RuntimeError: CUDA error")

    folder = measured / "a file"
    folder.write_text("")
    assert command.main(["tune", "--out", str(folder / "table.json")]) == 1
    text = capsys.readouterr().err
    assert text.startswith("fused_ops tune cannot write its table (") and "--out" in text
