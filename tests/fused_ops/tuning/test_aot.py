"""What the assembler makes of the Triton kernels: no spills, shared memory, tensor cores, wide accesses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fused_ops.triton_support import CARDS
from fused_ops.tuning import aot
from fused_ops.tuning.cases import CASES
from tests.fused_ops.interpreter import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter's kernels cannot be compiled"
    ),
]

# The large tensors that each memory-bound kernel reads or writes in "block": batch norm + residual + relu.
LARGE_TENSORS = {
    "partial_statistics": 1,
    "forward_apply": 3,
    "partial_sums": 3,
    "backward_apply": 5,
    "finish_statistics": 0,
    "finish_sums": 0,
}


def reports(name: str, architecture: str) -> list[aot.Report]:
    card = CARDS[architecture]
    found = [
        aot.compile_launch(case, launch, card) for case, launch in aot.rehearsals([(name, CASES[name])], card)
    ]
    assert found
    for report in found:
        where = f"{report.kernel} of {name} on {architecture}"
        assert report.spills == 0, f"{where}: {report.spills} accesses to local memory"
        assert report.shared_bytes <= report.shared_limit, f"{where}: {report.shared_bytes} bytes shared"
    return found


@pytest.mark.parametrize("architecture", CARDS)
@pytest.mark.parametrize("layout", ["planes", "last"])
def test_norm_act_moves_16_bytes_at_a_time(layout: str, architecture: str) -> None:
    for report in reports(f"norm_act block bfloat16 {layout}", architecture):
        elements = (
            report.constants["BLOCK_C"]
            * report.constants.get("BLOCK_K", 0)
            * report.constants.get("TILES", 1)
        )
        per_tensor = elements * 2 // (16 * 32 * report.num_warps)
        assert report.widths.get(128, 0) >= LARGE_TENSORS[report.kernel] * per_tensor, report.kernel


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    aot.write(tmp_path, reports("norm_act small bfloat16 last", "sm_90"))
    rows = json.loads((tmp_path / "triton_aot.json").read_text())["kernels"]
    assert [row["kernel"] for row in rows] == ["forward_row", "backward_row", "finish_sums"]
    assert all(row["architecture"] == "sm_90" and row["registers"] > 0 for row in rows)
    assert "| sm_90 |" in (tmp_path / "triton_aot.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["triton_aot.json", "triton_aot.md"]
