"""What of a call on a GPU decides who computes it: all that the choice and the backends' refusals depend on.

Facts are plain values, so that what was decided once is kept for calls that have the same. They are read at
every call, which leaves them a microsecond or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_ops.activations import BY_INDEX
from fused_ops.triton_support import step_of
from fused_ops.tuning.cost_model import Precision
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import ShareCall


def products_in(dtype: torch.dtype) -> Precision:
    """The precision of a pair's products."""
    if dtype.itemsize == 2:
        return "half"
    from fused_ops.selective_share.triton_plan import precision_of as of_dtype

    return of_dtype(dtype)


def _is_last(strides: tuple[int, ...]) -> bool:
    return len(strides) > 1 and strides[1] == 1


class ShareFacts(NamedTuple):
    """Of a pair, or of a single unit, which is judged as one."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    precision: Precision
    shape_of_y: torch.Size
    dtype_of_y: torch.dtype
    device_of_y: torch.device
    weight: torch.Size
    gates: bool
    outside: bool

    def call(self, backward: bool) -> ShareCall:
        cx = self.shape[1]
        return ShareCall(
            cx, self.shape_of_y[1], self.shape.numel() // cx, self.dtype.itemsize, _is_last(self.strides),
            backward or self.gates, self.outside,
        )  # fmt: skip


class NormFacts(NamedTuple):
    """``gamma`` and ``beta`` are their numbers of dimensions, 0 for None; ``residual`` is in a backward what
    was kept in its place."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    gamma: int
    beta: int
    residual: bool
    noise: bool
    given: bool
    groups: int
    activation: int

    def call(self, pooled: bool) -> NormCall:
        samples, channels = self.shape[:2]
        plane = self.shape.numel() // (samples * channels)
        last = _is_last(self.strides)
        sliced = step_of(self.shape, self.strides, last) != (channels if last else channels * plane)
        return NormCall(
            samples, channels, plane, self.dtype.itemsize, self.groups, self.given, last, self.residual,
            self.noise, BY_INDEX[self.activation].backward_needs, pooled, sliced,
        )  # fmt: skip


class UnpoolFacts(NamedTuple):
    """The places in ``winner`` lie as the gradient is written."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    winner: tuple[int, ...]
    height: int
    width: int
    activation: int

    def call(self) -> NormCall:
        samples, channels = self.shape[:2]
        needs = BY_INDEX[self.activation].backward_needs
        return NormCall(
            samples, channels, self.height * self.width, self.dtype.itemsize, given=True,
            channels_last=_is_last(self.winner), evidence=needs, pooled=True,
        )  # fmt: skip


Facts = ShareFacts | NormFacts | UnpoolFacts


def facts_of(op: str, args: tuple[Any, ...]) -> Facts | None:
    """The facts of a call; None for an op that nobody predicts."""
    read = _READ.get(op)
    return None if read is None else read(*args)


def _share(x: Tensor, y: Tensor, W_r: Tensor, *rest: Any) -> ShareFacts:
    return ShareFacts(
        x.shape, x.stride(), x.dtype, x.device, products_in(x.dtype), y.shape, y.dtype, y.device, W_r.shape,
        rest[-2], False,
    )  # fmt: skip


def _share_backward(
    _gx: Any, _gy: Any, grad_gates: Any, x: Tensor, y: Tensor, gates: Any, W_r: Tensor, *_: Any
) -> ShareFacts:
    return ShareFacts(
        x.shape, x.stride(), x.dtype, x.device, products_in(x.dtype), y.shape, y.dtype, y.device, W_r.shape,
        gates is not None, grad_gates is not None,
    )  # fmt: skip


def _norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, residual: Any, noise: Any, _scale: Any, mean: Any,
    _var: Any, groups: int, _eps: float, activation: int, *_: Any,
) -> NormFacts:  # fmt: skip
    return NormFacts(
        x.shape, x.stride(), x.dtype, x.device, 0 if gamma is None else gamma.dim(),
        0 if beta is None else beta.dim(), residual is not None, noise is not None, mean is not None, groups,
        activation,
    )  # fmt: skip


def _norm_backward(
    _grad: Any, x: Tensor, y: Any, gamma: Tensor | None, beta: Tensor | None, residual: Any, noise: Any,
    _scale: Any, _mean: Any, _var: Any, given: bool, groups: int, _eps: float, activation: int, *_: Any,
) -> NormFacts:  # fmt: skip
    # y or the residual is kept where there was one, but for activations that need neither.
    return NormFacts(
        x.shape, x.stride(), x.dtype, x.device, 0 if gamma is None else gamma.dim(),
        0 if beta is None else beta.dim(), y is not None or residual is not None, noise is not None, given,
        groups, activation,
    )  # fmt: skip


def _norm_pool(x: Tensor, gamma: Any, beta: Any, residual: Any, mean: Any, var: Any, *how: Any) -> NormFacts:
    return _norm(x, gamma, beta, residual, None, None, mean, var, *how)


def _unpool(
    grad: Tensor, _y: Any, winner: Tensor, height: int, width: int, activation: int, _slope: float
) -> UnpoolFacts:
    return UnpoolFacts(grad.shape, grad.dtype, grad.device, winner.stride(), height, width, activation)


_READ: dict[str, Callable[..., Facts]] = {
    "selective_share": _share,
    "selective_share_backward": _share_backward,
    "norm_act": _norm,
    "norm_act_backward": _norm_backward,
    "norm_act_pool": _norm_pool,
    "norm_act_pool_backward": _unpool,
}
