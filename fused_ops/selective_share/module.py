"""The layers: one ConvFLU unit, and the pair that lets two branches share selectively."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fused_ops.leaf import recorded_call, refuse_script
from fused_ops.reading import attribute, check_sizes
from fused_ops.selective_share.functional import (
    ConvFLUGates,
    ConvFLUWeights,
    ShareGates,
    check_convention,
    conv_flu,
    selective_share,
)

# Hooks with which torch makes a layer's weight from other parameters, before it runs.
_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)


def _weight(convolution: nn.Conv2d) -> Any:
    """The weight for this call of a convolution that is itself not called.

    Raises:
        TypeError: its class computes something else than torch's convolution does.
    """
    kind = type(convolution)
    if kind is not nn.Conv2d and kind.forward is not nn.Conv2d.forward:
        raise TypeError(
            f"a convolution of the unit is {kind.__module__}.{kind.__name__}, whose forward would not run: "
            "convolutions are read as weights; they must be torch.nn.Conv2d, or of a class with its forward"
        )
    if convolution._forward_pre_hooks:
        for hook in convolution._forward_pre_hooks.values():
            if isinstance(hook, _WEIGHT_HOOKS):
                hook(convolution, ())
    return attribute(convolution, convolution._parameters, "weight")


class FusedConvFLU(nn.Module):
    """One convolutional feature leaky unit: target x takes from source y what its gates let through.

    Zhao et al., ICPR 2020; equations in :mod:`fused_ops.selective_share.reference`. The parameters sit in the
    bias-free convolutions ``W_r``, ``W``, ``U``, ``W_z`` of torch's default initialisation, under the names
    that the authors' public checkpoints use (load those with ``convention="keep"``). These are read as
    weights, so hooks on them do not run, but those of ``torch.nn.utils`` that make weights do
    (``weight_norm``, ``spectral_norm``, ``prune``), and parametrizations hold. What wraps a convolution to
    compute something else, such as a low-rank adapter, is refused in the call.

    Args:
        x_channels: channels Cx of the target.
        y_channels: channels Cy of the source, default Cx.
        kernel_size: an odd number; 1 is the fast path.
        convention: "accept" (x' = (1 - z) x + z h, the paper) or "keep" (x' = z x + (1 - z) h, the public
            code).
        recompute: keep only x and y for the backward, compute the gates again there.
        device, dtype: of the weights, as for torch.nn's layers.

    Raises:
        TypeError: channels or a kernel size that are no integers, such as a pair.
        ValueError: channels below 1, an even kernel, an unknown convention.
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        x_channels: int,
        y_channels: int | None = None,
        kernel_size: int = 1,
        convention: str = "accept",
        recompute: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        y_channels = x_channels if y_channels is None else y_channels
        check_sizes(x_channels=x_channels, y_channels=y_channels, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the image keeps its size, got {kernel_size}")
        check_convention(convention)
        self.convention = convention
        self.recompute = recompute

        def convolution(inputs: int, outputs: int) -> nn.Conv2d:
            padding = kernel_size // 2
            return nn.Conv2d(
                inputs, outputs, kernel_size, padding=padding, bias=False, device=device, dtype=dtype
            )

        self.W_r = convolution(x_channels + y_channels, y_channels)
        self.W = convolution(y_channels, x_channels)
        self.U = convolution(x_channels, x_channels)
        self.W_z = convolution(x_channels + y_channels, x_channels)

    @property
    def weights(self) -> ConvFLUWeights:
        kept = self._modules
        return ConvFLUWeights(
            _weight(attribute(self, kept, "W_r")),
            _weight(attribute(self, kept, "W")),
            _weight(attribute(self, kept, "U")),
            _weight(attribute(self, kept, "W_z")),
        )

    def forward(
        self, x: Tensor, y: Tensor, return_gates: bool = False
    ) -> Tensor | tuple[Tensor, ConvFLUGates]:
        """x [N, Cx, H, W] and y [N, Cy, H, W] give x' [N, Cx, H, W], and the gates if wished."""
        if isinstance(x, Proxy):
            return recorded_call(self, x, y, return_gates)
        return conv_flu(
            x,
            y,
            self.weights,
            convention=self.convention,
            recompute=self.recompute,
            return_gates=return_gates,
        )

    def extra_repr(self) -> str:
        return f"convention={self.convention!r}" + (", recompute=True" if self.recompute else "")


class FusedSelectiveShare(nn.Module):
    """Selective sharing between two branches: a pair of :class:`FusedConvFLU`, computed as one fused op.

    Both directions start from the same features: ``x' = x_from_y(x, y)`` and ``y' = y_from_x(y, x)``. The
    arguments are those of :class:`FusedConvFLU`; the units are read as weights, so hooks on them do not run,
    and ``fully_shard`` takes the pair as a whole.

    Example:
        >>> share = FusedSelectiveShare(64)
        >>> x, y = share(x, y)                                   # [N, 64, H, W] each
        >>> x, y, gates = share(x, y, return_gates=True)         # gates.x_from_y.z: what x accepts from y
    """

    __prepare_scriptable__ = refuse_script

    def __init__(
        self,
        x_channels: int,
        y_channels: int | None = None,
        kernel_size: int = 1,
        convention: str = "accept",
        recompute: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        y_channels = x_channels if y_channels is None else y_channels

        def unit(target: int, source: int) -> FusedConvFLU:
            return FusedConvFLU(
                target, source, kernel_size, convention, recompute, device=device, dtype=dtype
            )

        self.x_from_y = unit(x_channels, y_channels)
        self.y_from_x = unit(y_channels, x_channels)

    @property
    def convention(self) -> str:
        return self.x_from_y.convention

    @property
    def recompute(self) -> bool:
        return self.x_from_y.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.x_from_y.recompute = self.y_from_x.recompute = value

    def forward(
        self, x: Tensor, y: Tensor, return_gates: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, ShareGates]:
        """x [N, Cx, H, W] and y [N, Cy, H, W] give ``(x', y')`` of the same shapes, and gates if wished."""
        if isinstance(x, Proxy):
            return recorded_call(self, x, y, return_gates)
        x_from_y, y_from_x = self.x_from_y, self.y_from_x  # a module's attributes are slow to read
        return selective_share(
            x,
            y,
            x_from_y.weights,
            y_from_x.weights,
            convention=x_from_y.convention,
            recompute=x_from_y.recompute,
            return_gates=return_gates,
        )
