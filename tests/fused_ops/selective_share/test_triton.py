"""selective_share's Triton kernels in the interpreter (triton_interpreted.py); what is said without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fused_ops
from fused_ops import explain, use
from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter
from tests.fused_ops.selective_share.test_op import pair


@needs_triton
@pytest.mark.slow
def test_in_the_interpreter() -> None:
    pass_in_interpreter(Path(__file__).with_name("triton_interpreted.py"))


def test_cpu_tensors_are_refused_with_a_reason() -> None:
    x, y, *weights = pair(4, 3, 2, 5, 5)
    with use("triton"), pytest.raises(RuntimeError, match=r"tensors are on cpu|triton is not installed"):
        fused_ops.selective_share(x, y, weights[:4], weights[4:])
    decision = explain(fused_ops.selective_share, x, y, weights[:4], weights[4:])[0]
    assert "triton" in decision.reasons


def test_larger_kernels_are_refused_first() -> None:
    """Whatever else is missing: that no backend but the reference has them is what helps the caller."""
    x, y = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    weights = [torch.randn(2, c, 3, 3) for c in (4, 2, 2, 4)]
    with use("triton"), pytest.raises(RuntimeError, match="only 1x1 kernels, these are 3x3"):
        fused_ops.conv_flu(x, y, weights)
