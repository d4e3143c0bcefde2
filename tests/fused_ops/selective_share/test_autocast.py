"""Under autocast: features in its dtype, weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fused_ops import native, use
from fused_ops.selective_share import reference
from tests.fused_ops.selective_share.test_op import everything, pair, share


def test_autocast_computes_in_its_dtype_and_returns_gradients_in_the_weights() -> None:
    tensors = [tensor.requires_grad_() for tensor in pair(8, 8, 2, 4, 4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_out, y_out = share(*tensors)
    assert x_out.dtype == y_out.dtype == torch.bfloat16
    grads = torch.autograd.grad((x_out.float() + y_out.float()).sum(), tensors)
    assert all(grad.dtype == torch.float32 for grad in grads)
    torch.testing.assert_close(x_out.float(), share(*tensors)[0], rtol=0.05, atol=0.05)


def check_parameters_in_float32(backend: str, dtype: torch.dtype) -> list[Tensor]:
    """Under autocast weights count as rounded, and their gradients come in float32; these are returned."""
    x, y, *weights = pair(16, 24, 2, 5, 4)
    tensors = [x.to(dtype), y.to(dtype), *weights]
    rounded = everything([tensor.to(dtype) for tensor in tensors], backend, "accept", False)
    with torch.autocast("cpu", dtype):
        found = everything(tensors, backend, "accept", False)
    for ours, theirs in zip(found, rounded, strict=True):
        assert torch.equal(ours.to(dtype), theirs)
    assert all(tensor.dtype == dtype for tensor in found[:-8])
    assert all(grad.dtype == torch.float32 for grad in found[-8:])
    return found[-8:]


def test_parameters_in_float32(backend: str) -> None:
    check_parameters_in_float32(backend, torch.bfloat16)


@pytest.mark.skipif(not native.cpu_library().loaded, reason=native.cpu_library().reason or "not loaded")
def test_autocast_casts_all_weights_in_one_launch_each_way() -> None:
    tensors = [tensor.requires_grad_() for tensor in pair(8, 8, 2, 4, 4)]
    tensors[:2] = [tensor.detach().bfloat16() for tensor in tensors[:2]]
    with torch.profiler.profile() as profile, torch.autocast("cpu", torch.bfloat16), use("cpu"):
        x_out, y_out = share(*tensors)
        torch.autograd.backward((x_out, y_out), (x_out.detach(), y_out.detach()))
    count = {event.key: event.count for event in profile.key_averages()}
    assert count["aten::_foreach_copy_"] == 3  # the backward also casts the gradients
    assert "aten::_to_copy" not in count


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_under_autocast_reach_the_parameters(order: int, backend: str) -> None:
    tensors = [tensor.requires_grad_() for tensor in pair(4, 3, 2, 3, 3)]

    def derivatives(function: Callable[..., Sequence[Tensor]]) -> Sequence[Tensor]:
        with use(backend), torch.autocast("cpu", torch.bfloat16):
            found = function(*tensors)
            for _ in range(order):
                loss: Any = sum(tensor.float().square().sum() for tensor in found)
                found = torch.autograd.grad(loss, tensors, create_graph=True)
        return found

    def plain(x: Tensor, y: Tensor, *weights: Tensor) -> Sequence[Tensor]:
        low = [tensor.bfloat16() for tensor in (x, y, *weights)]
        with torch.autocast("cpu", enabled=False):
            x_out, y_out, _ = reference.forward(*low, keep=False)
            return x_out, y_out

    for ours, theirs in zip(derivatives(share), derivatives(plain), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.05 * theirs.norm()
