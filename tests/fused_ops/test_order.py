"""Triton kernels whose programs or threads are in no order are found in the interpreter."""

from __future__ import annotations

from pathlib import Path

from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter


@needs_triton
def test_disorder_is_found() -> None:
    pass_in_interpreter(Path(__file__).with_name("order_interpreted.py"))
