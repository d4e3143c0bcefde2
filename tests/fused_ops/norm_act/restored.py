"""inplace=True: what the backward must give where it has y in the place of x."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fused_ops import use
from tests.fused_ops.norm_act.cases import Case, results
from tests.numerics import error_in_roundings

INPLACE = [
    Case("batch", "leaky_relu", inplace=True),
    Case("batch", "identity", affine=False, inplace=True),
    Case("running", "leaky_relu", inplace=True),
    Case("instance", "leaky_relu", affine=False, inplace=True),
    Case("instance", "elu", inplace=True),
    Case("group", "leaky_relu", inplace=True),
]


def drawn(case: Case, shape: tuple[int, ...], channels_last: bool = False) -> list[Tensor]:
    """As the case draws them, but no weight near zero: between 1/2 and 3/2, of either sign."""
    tensors = case.tensors(shape, channels_last)
    if case.affine:
        tensors[1] = (torch.rand_like(tensors[1]) + 0.5) * tensors[1].sign()
    return tensors


def check_restored(case: Case, shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype) -> None:
    """Off by some roundings of the output, each |beta / gamma| <= 8 of the input's deviation."""
    if not case.serves(shape) or (channels_last and len(shape) < 4):
        return
    if dtype not in (torch.float32, torch.float64) and case.activation == "elu":
        return
    tensors = case.cast(drawn(case, shape, channels_last), dtype)
    with use("reference"):
        exact = results(case.eager, [tensor.double() for tensor in tensors], dtype)
    ours = results(case.fused, tensors)
    kept = results(replace(case, inplace=False).fused, tensors)
    assert torch.equal(ours[0], kept[0])
    for our, same, true in zip(ours, kept, exact, strict=True):
        if dtype == torch.float64:
            torch.testing.assert_close(our, same)
        else:
            of_output = torch.finfo(dtype).eps / torch.finfo(our.dtype).eps
            allowed = 2 * error_in_roundings(same, true) + 16 * of_output
            assert error_in_roundings(our, true) <= allowed
