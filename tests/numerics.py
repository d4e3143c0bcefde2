"""How results are compared: against float64, by what plain PyTorch reaches in the same precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.accuracy import error_in_roundings
from benchmarks.memory import saved_bytes

__all__ = ["assert_as_accurate_as_eager", "error_in_roundings", "outputs_and_gradients", "saved_bytes"]

FEW = 64  # results with fewer elements are judged together: the largest of few errors is a matter of luck


def assert_as_accurate_as_eager(
    ours: Sequence[Tensor],
    eager: Sequence[Tensor],
    exact: Sequence[Tensor],
    again: Sequence[Tensor] | None = None,
) -> None:
    """Our largest error is at most twice eager's own in the same dtype, plus one rounding of the largest.

    ``exact`` holds the float64 results from the same (rounded) inputs. NaN and infinities in ours fail.
    ``again`` holds eager's results by other kernels of torch (in another memory format): its error is that of
    the worse ones, since how one element's roundings fall out is luck, and differs between processors.
    """
    worst, worst_allowed = 0.0, 0.0
    for index, (our, their, other, true) in enumerate(zip(ours, eager, again or eager, exact, strict=True)):
        name = f"result {index}"
        assert our.dtype == their.dtype, f"{name}: {our.dtype} instead of {their.dtype}"
        assert our.shape == true.shape, f"{name}: shape {list(our.shape)} instead of {list(true.shape)}"
        if our.numel() == 0:
            continue
        assert torch.isfinite(our).all(), f"{name}: has NaN or infinite values"
        error = error_in_roundings(our, true)
        allowed = 2 * max(error_in_roundings(their, true), error_in_roundings(other, true)) + 1
        if our.numel() >= FEW:
            assert error <= allowed, f"{name}: error {error:.3g} roundings, allowed {allowed:.3g}"
        worst, worst_allowed = max(worst, error), max(worst_allowed, allowed)
    assert worst <= worst_allowed, f"all results: error {worst:.3g} roundings, allowed {worst_allowed:.3g}"


def outputs_and_gradients(
    compute: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """What ``compute(*tensors)`` gives, and all gradients for fixed random ones of the outputs.

    Those are rounded to ``dtype``, so that a computation in float64 gets the same ones as another.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = compute(*leaves)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(o.shape, generator=generator).to(dtype).to(o.dtype) for o in outputs]
    found = torch.autograd.grad(outputs, leaves, grads)
    return [tensor.detach() for tensor in (*outputs, *found)]
