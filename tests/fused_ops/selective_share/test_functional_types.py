"""What a type checker makes of the functional twins: their results can be unpacked as they are documented."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import torch
from fused_ops import conv_flu, selective_share

x, y = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
weights = tuple(torch.randn(8, inputs, 1, 1) for inputs in (16, 8, 8, 16))
x2, y2 = selective_share(x, y, weights, weights)
x3, y3, gates = selective_share(x, y, weights, weights, return_gates=True)
x4 = conv_flu(x2, y2, weights).relu() + gates.x_from_y.z
x5, of_one = conv_flu(x, y, weights, return_gates=True)
of_one.r.relu()
asked: bool = len(weights) == 4
either = selective_share(x, y, weights, weights, return_gates=asked)
"""


@pytest.mark.slow
def test_results_have_the_types_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    (tmp_path / "program.py").write_text(PROGRAM)
    where = ["--config-file", "", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "program.py")]
    said, complaints, code = api.run(["--follow-imports", "silent", "--ignore-missing-imports", *where])
    assert code == 0, said + complaints
