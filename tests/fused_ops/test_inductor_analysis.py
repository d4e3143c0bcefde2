"""What torch.compile believes the Triton kernels write: with less it would drop or reorder launches."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from fused_ops.triton_support import CARDS, Launch
from fused_ops.tuning import aot
from fused_ops.tuning.cases import CASES
from tests.fused_ops.interpreter import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter's kernels are plain Python"
    ),
]
RESULTS = ("x_out_ptr", "y_out_ptr", "gates_ptr")
WEIGHTS = ("W_r_x", "W_x", "U_x", "W_z_x", "W_r_y", "W_y", "U_y", "W_z_y")
GRADS = ("grad_x_ptr", "grad_y_ptr")
AFFINE = ("grad_gamma_ptr", "grad_beta_ptr")
WRITTEN: dict[str, tuple[str, ...]] = {
    "forward_resident": RESULTS,
    "forward_unit": RESULTS,
    "update_gates": ("gates_ptr", "passed_ptr"),
    "candidate_and_mix": RESULTS,
    "input_gradients_pair": ("before_r_ptr", *GRADS),
    "input_gradients_fused": ("pre_ptr", *GRADS),
    "gate_gradients": ("pre_ptr",),
    "reset_gradients": ("pre_ptr", *GRADS),
    "input_gradients": GRADS,
    "weight_gradients_unit": ("part_ptr",),
    "weight_gradients": ("part_ptr",),
    "add_weight_parts": WEIGHTS,
    "partial_statistics": ("partial_ptr",),
    "finish_statistics": ("mean_ptr", "var_ptr"),
    "forward_row": ("y_ptr", "mean_ptr", "var_ptr"),
    "forward_apply": ("y_ptr",),
    "partial_sums": ("partial_ptr",),
    "finish_sums": (*AFFINE, "means_ptr"),
    "backward_row": ("grad_x_ptr", "grad_residual_ptr", *AFFINE, "noise_sum_ptr"),
    "backward_apply": ("grad_x_ptr", "grad_residual_ptr", "noise_sum_ptr"),
    "pool_apply": ("y_ptr", "winner_ptr"),
    "unpool_kernel": ("grad_z_ptr",),
}


@pytest.fixture
def analysis(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch's analysis of kernels, of which Triton is asked what it would compile for an H100."""
    import triton
    from torch._higher_order_ops import triton_kernel_wrap
    from triton.backends.compiler import GPUTarget

    if not hasattr(triton_kernel_wrap, "identify_accessed_tensors"):
        pytest.skip(f"torch {torch.__version__} names its analysis otherwise")

    class Driver:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    return triton_kernel_wrap.identify_accessed_tensors


def written(launch: Launch, analysis: Any) -> set[str]:
    values = {**dict(zip(launch.kernel.arg_names, launch.args, strict=False)), **launch.constants}
    real = {
        name: torch.empty(value.shape, dtype=value.dtype) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
    return {access.name for access in analysis(launch.kernel, real, {}).read_writes.writes}


def test_it_sees_what_each_kernel_writes_and_no_more(analysis: Any) -> None:
    cases = [
        *(f"selective_share {name} bfloat16 last train" for name in ("16", "128", "256", "64 and 128")),
        *(f"selective_share 64 bfloat16 last {mode}" for mode in ("train", "infer", "train of a slice")),
        *(f"norm_act {name} bfloat16 last" for name in ("block", "style", "large style", "frozen", "map")),
        "norm_act_pool block bfloat16 last",
    ]
    seen = set()
    for name in cases:
        for _, launch in aot.rehearsals([(name, CASES[name])], CARDS["sm_90"]):
            kernel = launch.kernel.__name__
            given = {
                of
                for of, value in zip(launch.kernel.arg_names, launch.args, strict=False)
                if value is not None
            }
            assert written(launch, analysis) == given & set(WRITTEN[kernel]), f"{kernel} of {name}"
            seen.add(kernel)
    assert seen == set(WRITTEN)
