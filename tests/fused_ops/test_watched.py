"""Faults of Triton kernels that the interpreter itself does not see are found."""

from __future__ import annotations

from pathlib import Path

from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter


@needs_triton
def test_faults_of_memory_are_found() -> None:
    pass_in_interpreter(Path(__file__).with_name("watched_interpreted.py"))
