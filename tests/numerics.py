"""How results are compared: against float64, by what plain PyTorch reaches in the same precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FEW = 64  # results with fewer elements are judged together: the largest of few errors is a matter of luck


def error_in_roundings(value: Tensor, exact: Tensor) -> float:
    """The largest error, in units of the dtype's rounding of the largest exact value."""
    rounding = torch.finfo(value.dtype).eps * exact.abs().max().item()
    return (value.double() - exact).abs().max().item() / max(rounding, torch.finfo(value.dtype).tiny)


def assert_as_accurate_as_eager(
    ours: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor]
) -> None:
    """Our largest error is at most twice eager's own in the same dtype, plus one rounding of the largest.

    ``exact`` holds the float64 results from the same (rounded) inputs. NaN and infinities in ours fail.
    """
    worst, worst_allowed = 0.0, 0.0
    for index, (our, their, true) in enumerate(zip(ours, eager, exact, strict=True)):
        name = f"result {index}"
        assert our.dtype == their.dtype, f"{name}: {our.dtype} instead of {their.dtype}"
        assert our.shape == true.shape, f"{name}: shape {list(our.shape)} instead of {list(true.shape)}"
        if our.numel() == 0:
            continue
        assert torch.isfinite(our).all(), f"{name}: has NaN or infinite values"
        error, allowed = error_in_roundings(our, true), 2 * error_in_roundings(their, true) + 1
        if our.numel() >= FEW:
            assert error <= allowed, f"{name}: error {error:.3g} roundings, allowed {allowed:.3g}"
        worst, worst_allowed = max(worst, error), max(worst_allowed, allowed)
    assert worst <= worst_allowed, f"all results: error {worst:.3g} roundings, allowed {worst_allowed:.3g}"


def saved_bytes(function: Callable[[], object], ignore: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd keeps for a call's backward: each storage once, those of ``ignore`` left out."""
    storages: dict[int, int] = {}
    ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = function()  # alive until counted, so that no storage is freed and its address used again
    del kept
    return sum(storages.values())
