"""The running statistics of batch and instance norms, moved in training by what their calls found."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from fused_ops import backends, native
from fused_ops.registration import is_watched


def move(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float, count: int
) -> None:
    """In place, [C]; the batch's variance is biased and over ``count`` values.

    As torch's own norms, which keep them for their backward, without telling autograd of the change.
    """
    unbias = count / (count - 1)
    if library_moves(running_mean, running_var, mean):
        native.CUDA_OPS.norm_act_move.default(running_mean, running_var, mean, var, momentum, unbias)
        return
    told = torch.compiler.is_compiling() or running_mean.is_inference()
    untold = torch.autograd._unsafe_preserve_version_counter
    with contextlib.nullcontext() if told else untold((running_mean, running_var)):
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * unbias).to(running_var.dtype), momentum)


def library_moves(running_mean: Tensor, running_var: Tensor, mean: Tensor) -> bool:
    """Whether the CUDA library moves them, in one launch instead of three."""
    return (
        running_mean.is_cuda
        and not is_watched()
        and backends.requested() in ("auto", "cuda")
        and running_mean.dtype is running_var.dtype
        and mean.dtype is torch.float32
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
        and native.why_not_cuda(running_mean) is None
    )
