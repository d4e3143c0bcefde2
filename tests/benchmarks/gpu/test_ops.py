"""What the stage of ops writes down beside a measurement, on a pretended card."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import predictions
from benchmarks.cases import Case, Shape
from benchmarks.gpu import files, ops
from benchmarks.gpu.stages import Context, Outcome
from benchmarks.gpu.timing import Timed
from benchmarks.measure import Runner
from fused_ops.triton_support import CARDS, Card
from fused_ops.tuning.cost_model import CEILINGS

H200 = Card("NVIDIA H200", (9, 0), 132, 232_448)
CEILING = {"copy": 4e12, "bfloat16": 8e14, "float32": 4e14}
NAMES = ("eager", "triton", "cuda", "bound")


def records(
    card: Card, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Case, dict[str, dict[str, Any]]]:
    """Every provider takes 1 ms, eager 3."""
    case = Case("selective_share", "full", Shape(64, 64, 48), dtype, "channels_last", NAMES)
    timed = {name: Timed([1e-4], [3e-3 if name == "eager" else 1e-3], True) for name in NAMES}
    monkeypatch.setattr(ops, "card_of", lambda device: card)
    monkeypatch.setattr(ops, "time_all", lambda runners, device, dry: (timed, {}))
    providers: Any = SimpleNamespace(
        runner=lambda name, mode: None, facts=lambda name, mode, wrong: {"error_roundings": 1.0}
    )
    found = ops.measure(case, providers, Context("ops", "cuda", False, 100, tmp_path), CEILING)
    return case, {record["provider"]: record for record in found}


@pytest.mark.parametrize(("card", "sheet"), [(CARDS["sm_90"], "H100"), (H200, "H200")], ids=["H100", "H200"])
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "half"), ("float32", "tf32")])
def test_the_prediction_is_of_this_card_and_stands_beside_the_measurement(
    card: Card, sheet: str, dtype: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, found = records(card, dtype, tmp_path, monkeypatch)
    for backend, launches in predictions.kernels(case, card, precision).items():
        expected = 1e6 * CEILINGS[sheet].seconds(launches, precision)
        assert found[backend]["predicted_us"] == pytest.approx(expected, rel=1e-3)
        assert found[backend]["cold_us"] == 1000
    assert "predicted_us" not in found["eager"] and "predicted_us" not in found["bound"]
    result = {"ceilings": CEILING, "records": list(found.values())}
    report = files.report([Outcome("ops", "passed", 1.0, "", result)], {}, dry=False).splitlines()
    header = next(line for line in report if "| predicted_us |" in line).split("|")
    row = next(line for line in report if "| triton |" in line).split("|")
    shown = dict(zip((name.strip() for name in header), (value.strip() for value in row), strict=True))
    assert (shown["cold_us"], shown["predicted_us"]) == (
        "1000.0", str(found["triton"]["predicted_us"]),
    )  # fmt: skip


def test_shares_and_ratios_follow_from_the_ceilings_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, found = records(H200, "bfloat16", tmp_path, monkeypatch)
    cost = case.cost()
    least = max((cost.bytes or 0) / CEILING["copy"], (cost.flops or 0) / CEILING["bfloat16"])
    assert found["triton"]["roofline_us"] == pytest.approx(1e6 * least, rel=1e-3)
    assert found["triton"]["roofline_share"] == pytest.approx(least / 1e-3, rel=1e-3)
    assert found["triton"]["x_eager"] == 3


def test_a_backend_that_raises_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one whose results are wrong, which are not timed."""

    def runner(name: str, mode: str) -> Runner:
        if name == "triton":
            raise RuntimeError("PassManager::run failed\nmore")
        return Runner(lambda _: None)

    def facts(name: str, mode: str, wrong: float) -> dict[str, float]:
        if name == "cuda":
            raise ValueError("wrong results: 1e+04 roundings from float64's")
        return {}

    monkeypatch.setattr(ops, "card_of", lambda device: H200)
    monkeypatch.setattr(
        ops, "time_all", lambda runners, *_: ({name: Timed([1e-4], [1e-3]) for name in runners}, {})
    )
    case = Case("selective_share", "full", Shape(64, 64, 48), "bfloat16", "channels_last", NAMES)
    providers: Any = SimpleNamespace(runner=runner, facts=facts)
    found = ops.measure(case, providers, Context("ops", "cuda", False, 100, tmp_path), CEILING)
    errors = {record["provider"]: record.get("error") for record in found}
    assert errors == {
        "eager": None, "triton": "RuntimeError: PassManager::run failed",
        "cuda": "ValueError: wrong results: 1e+04 roundings from float64's", "bound": None,
    }  # fmt: skip
    assert [record["provider"] for record in found if "cold_us" in record] == ["eager", "bound"]
