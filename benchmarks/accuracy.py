"""How wrong a result is, in roundings of its dtype, so that precisions compare; whether it may be timed."""

from __future__ import annotations

import torch
from torch import Tensor


def error_in_roundings(value: Tensor, exact: Tensor) -> float:
    """The largest error, in units of the dtype's rounding of the largest exact value."""
    rounding = torch.finfo(value.dtype).eps * exact.abs().max().item()
    return (value.double() - exact).abs().max().item() / max(rounding, torch.finfo(value.dtype).tiny)


def assert_as_accurate(
    ours: tuple[Tensor, ...], stock: tuple[Tensor, ...], exact: tuple[Tensor, ...]
) -> None:
    """RuntimeError unless each of ``ours`` is at most twice as far from ``exact`` (of a higher precision) as
    the stock model's output in the same low precision, plus its rounding."""
    for index, (our, their, true) in enumerate(zip(ours, stock, exact, strict=True)):
        error, allowed = (error_in_roundings(value, true.double()) for value in (our, their))
        if not error <= 2 * allowed + 1:
            raise RuntimeError(
                f"output {index} of the fused model is {error:.3g} roundings off, "
                f"the stock model's {allowed:.3g}"
            )


def assert_equal_outputs(
    ours: tuple[Tensor, ...], stock: tuple[Tensor, ...], tolerance: float = 1e-3
) -> None:
    """RuntimeError unless both sets of outputs agree to ``tolerance`` of the largest value.

    Nothing is timed before this holds: a faster wrong answer is no result.
    """
    for index, (our, their) in enumerate(zip(ours, stock, strict=True)):
        difference = (our.double() - their.double()).abs().max().item()
        largest = their.double().abs().max().item()
        if not difference <= tolerance * max(largest, 1e-30):
            raise RuntimeError(
                f"output {index} of the fused and the stock model differ by {difference:.3g}, "
                f"with values up to {largest:.3g}"
            )
