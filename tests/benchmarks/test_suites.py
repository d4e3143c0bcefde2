"""The suites as their users run them, on tiny shapes: tests, table, JSON, results, options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)]
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FUSED_OPS"))
    }
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def records(folder: Path, suite: str) -> dict[tuple[str, str, str], dict]:
    (path,) = folder.glob(f"*/{suite}.json")
    content = json.loads(path.read_text())
    return {(r["op"], r["mode"], r["provider"]): r for r in content["records"]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str], dict]:
    folder = tmp_path_factory.mktemp("suites")
    done = run(
        *("benchmarks/test_selective_share.py", "benchmarks/test_norm_act.py"),
        *("--op", "selective_share,selective_share_recompute,adain", "--shapes", "b2-c4-s5,b2-c8-s5"),
        *("--dtypes", "float32", "--layouts", "channels_last", "--rounds", 5),
        *("--modes", "forward,backward,full", "--providers", "eager,reference,triton,bound,copy"),
        *("--device", "cpu", "--results", folder, "--benchmark-json", folder / "table.json"),
    )
    return folder, done, json.loads((folder / "table.json").read_text()) if done.returncode == 0 else {}


def test_each_provider_of_each_case_is_a_benchmark(measured) -> None:
    _, done, table = measured
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "machine should be idle" in done.stdout
    shown = {(b["group"], b["name"]) for b in table["benchmarks"]}
    assert ("selective_share-full-b2-c4-s5-float32-channels_last", "eager") in shown
    assert ("adain-full-b2-c8-s5-float32-channels_last", "copy") in shown
    benchmark = next(b for b in table["benchmarks"] if b["name"] == "bound")
    assert benchmark["stats"]["rounds"] == 5
    info = benchmark["extra_info"]
    assert 1e3 * benchmark["stats"]["median"] == pytest.approx(info["median_ms"], rel=1e-3)
    assert {"threads", "versions", "commit", "processor"} <= info["environment"].keys()


def test_results_hold_time_cost_memory_and_error(measured) -> None:
    share = records(measured[0], "selective_share")
    found = share["selective_share", "full", "reference"]
    assert found["flops"] == 72 * 4**2 * 50
    assert found["saved_bytes"] == 8 * 4 * 50 * 4
    assert share["selective_share", "full", "eager"]["saved_bytes"] == 16 * 4 * 50 * 4
    assert share["selective_share_recompute", "full", "reference"]["saved_bytes"] == 2 * 4 * 50 * 4
    assert found["peak_bytes"] > 0 and found["error_roundings"] < 100
    assert found["p20_ms"] <= found["median_ms"] <= found["p80_ms"]
    assert found["to_bound_p20"] <= found["to_bound"] <= found["to_bound_p80"]
    assert found["bound_share"] == pytest.approx(1 / found["to_bound"], rel=1e-3)
    assert "to_copy" in records(measured[0], "norm_act")["adain", "full", "eager"]


def test_a_provider_that_cannot_run_is_skipped_with_its_reason(measured) -> None:
    found = records(measured[0], "norm_act")["adain", "full", "triton"]
    assert found["skipped"] and "median_ms" not in found
    assert f"triton: {found['skipped']}" in measured[1].stdout


def test_resuming_leaves_out_what_was_measured(measured) -> None:
    folder = measured[0]
    (path,) = folder.glob("*/norm_act.json")
    before = path.read_text()
    arguments = (
        *("benchmarks/test_norm_act.py", "--op", "adain", "--shapes", "b2-c8-s5", "--rounds", 5),
        *(
            "--dtypes",
            "float32",
            "--layouts",
            "channels_last",
            "--providers",
            "eager,bound",
            "--modes",
            "full",
        ),
        *("--device", "cpu", "--results", folder, "--resume"),
    )
    done = run(*arguments)
    assert "2 skipped" in done.stdout and "--resume" in done.stdout
    assert path.read_text() == before
    assert "2 passed" in run(*arguments[:-1]).stdout  # without --resume it measures again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--providers", "gpu"), "providers: 'gpu' is unknown; known are eager, compile"),
        (("--shapes", "huge"), "shapes: 'huge' is unknown; known are b16-c64-s48"),
        (("--dtypes", "fp32"), "dtypes: 'fp32' is unknown; known are float32, bfloat16"),
        (("--device", "tpu"), "device: 'tpu' is unknown; known are cpu, cuda"),
        (("--rounds", "0"), "--rounds must be 1 or more, got 0"),
        (("-n", "2"), "leave out -n"),
    ],
)
def test_wrong_options_say_what_is_right(arguments: tuple[str, ...], message: str) -> None:
    done = run("benchmarks", *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stdout + done.stderr
