"""The same layers in torch's own steps: norm, residual, activation, each with its own autograd.

The automatic choice leaves the calls to them that :mod:`fused_ops.tuning.small_calls` names. What is kept for
the backward is then what torch keeps; on such tensors that is little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fused_ops import backends
from fused_ops.activations import ACTIVATIONS
from fused_ops.norm_act.after import After
from fused_ops.norm_act.layout import PLAIN, memory_format
from fused_ops.registration import is_observed
from fused_ops.tuning import small_calls
from fused_ops.tuning.small_calls import Kind

# torch's derivatives of these lie as the output does, those of others as the gradient that comes.
_LAY_OUT = tuple(ACTIVATIONS[name].index for name in ("relu", "leaky_relu"))


def is_better(x: Tensor, kind: Kind, after: After) -> bool:
    """Whether ``auto`` takes torch's own steps for this call, which :func:`backends.explain` then tells.

    All small tensors that take part must be of x's dtype: the op knows how to mix others.
    """
    if not x.is_cpu or type(x) not in PLAIN or is_observed() or backends.requested() != "auto":
        return False
    residual = after.residual
    if residual is not None and (type(residual) not in PLAIN or residual.dtype != x.dtype):
        return False
    alone = residual is None and not after.inplace and after.pool == 1
    if reason := small_calls.quicker_in_steps(x, kind, alone):
        backends.note("norm_act", "reference", x, reason)
        return True
    return False


def held(statistic: Tensor | None, moved: bool) -> Tensor | None:
    """Running statistics as torch's norms get them, which keep them for a backward that may come after other
    training steps. Where they are moved that reads none, so autograd has no changes of theirs to count."""
    if statistic is None:
        return None
    if moved:
        return statistic.data
    return statistic.clone() if torch.is_grad_enabled() else statistic


def finish(x: Tensor, z: Tensor, after: After, gradient: torch.memory_format | None = None) -> Tensor:
    """From z, the norm of x, the layer's output in the memory format that the op would give it.

    ``gradient``: the memory format in which z's has to come, where strides may not tell it: with a dimension
    of one element torch 2.13's batch norm takes channels that lie side by side for planes, or the reverse.
    """
    if gradient is not None and z.requires_grad and after.activation not in _LAY_OUT:
        z.register_hook(_in_planes if gradient is torch.contiguous_format else _in_channels_last)
    if not x.is_contiguous():
        z = z.contiguous(memory_format=memory_format(x))  # torch's instance norm makes all outputs contiguous
    return after.apply(z, owned=True)


def _in_planes(gradient: Tensor) -> Tensor:
    return gradient.contiguous()


def _in_channels_last(gradient: Tensor) -> Tensor:
    return gradient.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap knows no contiguous but the plain one
