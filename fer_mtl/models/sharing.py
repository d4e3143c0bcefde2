"""Ways for two branches to share features: :data:`SHARING` names them, :func:`make_sharing` builds one.

Each is a module called as ``share(x, y, return_gates=False) -> (x', y', gates)``, with x the recognition and
y the synthesis features, both [N, channels, H, W], and x', y' of the same shape; ``gates`` is None where a
method has none or none were asked for. Both results come from the same x and y: neither sees the other's. The
formulas below are written for x'; y' swaps the roles and has weights of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fused_ops import FusedBatchNormAct2d, FusedSelectiveShare

OWN, OTHER = 0.9, 0.1  # what a mixing unit passes of its own and of the other task's features at the start

Shared = tuple[Tensor, Tensor, Any]


class Sharing(nn.Module):
    """What all ways of sharing have in common."""

    #: One trunk serves both tasks: the network then builds no synthesis block of its own at this level.
    one_trunk: ClassVar[bool] = False

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        """x, y [N, channels, H, W] -> (x', y', gates or None)."""
        raise NotImplementedError

    def penalty(self, x_weight: Tensor, y_weight: Tensor) -> Tensor | None:
        """What the method adds to the loss, given the last convolution of either branch; None for most."""
        return None


class ConvFLUSharing(Sharing):
    """The paper's selective sharing (arXiv 2007.04514), by a pair of convolutional feature leaky units.

    r = sigmoid(W_r * [x, y]);  h = tanh(W * (r . y) + U * x);  z = sigmoid(W_z * [x, y])
    x' = (1 - z) . x + z . h  for ``convention="accept"``,  x' = z . x + (1 - z) . h  for ``"keep"``.

    Gates, when asked for: those of :class:`fused_ops.FusedSelectiveShare`.
    """

    def __init__(
        self, channels: int, *, kernel_size: int = 1, convention: str = "accept", recompute: bool = False
    ) -> None:
        super().__init__(channels)
        self.pair = FusedSelectiveShare(
            channels, kernel_size=kernel_size, convention=convention, recompute=recompute
        )

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        if return_gates:
            return self.pair(x, y, return_gates=True)
        return *self.pair(x, y), None


class NoSharing(Sharing):
    """x' = x: two separate branches."""

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        return x, y, None


class HardSharing(Sharing):
    """x' = y' = x: one trunk, two heads (Caruana, "Multitask Learning", 1997; the paper's Baseline*).

    The recognition block is the trunk and y is ignored. Stem, three blocks and joint block are then the five
    shared blocks of the paper's Baseline*.
    """

    one_trunk = True

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        return x, x, None


class CrossStitch(Sharing):
    """x' = a_xx x + a_xy y, one a per channel (Misra et al., "Cross-stitch Networks", CVPR 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        start = torch.tensor([[OWN, OTHER], [OTHER, OWN]])
        self.mix = nn.Parameter(start[:, :, None].repeat(1, 1, channels))

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        (xx, xy), (yx, yy) = self.mix.to(x.dtype)[..., None, None]
        return xx * x + xy * y, yx * x + yy * y, None


class Sluice(Sharing):
    """[x1', x2', y1', y2'] = A [x1, x2, y1, y2] (Ruder et al., "Sluice networks", AAAI 2019).

    The channels of each task form two subspaces, mixed by a 4x4 matrix of scalars, 0.9 on its diagonal at the
    start. :meth:`penalty` keeps the subspaces of a task apart: the squared Frobenius norm of G1^T G2, summed
    over the tasks, where the columns of G1 and G2 are the filters that made the two subspaces. That paper
    also mixes the layers into the output (its beta); this is left out, since no other method here has it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mix = nn.Parameter(torch.full((4, 4), OTHER / 3).fill_diagonal_(OWN))

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        # The same matrix acts on every channel of a subspace: one small product for all four.
        parts = torch.stack([*x.chunk(2, dim=1), *y.chunk(2, dim=1)])
        x1, x2, y1, y2 = torch.einsum("ij,jnchw->inchw", self.mix.to(x.dtype), parts)
        return torch.cat([x1, x2], dim=1), torch.cat([y1, y2], dim=1), None

    def penalty(self, x_weight: Tensor, y_weight: Tensor) -> Tensor:
        """The orthogonality penalty of two convolution weights [channels, in, k, k], a scalar."""

        def overlap(weight: Tensor) -> Tensor:
            first, second = weight.flatten(1).chunk(2)
            return (first @ second.T).square().sum()

        return overlap(x_weight) + overlap(y_weight)


class NDDR(Sharing):
    """x' = relu(bn(W * [x, y])), W 1x1 (Gao et al., "NDDR-CNN", CVPR 2019); W starts as 0.9 own + 0.1
    other."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.x_from_both = self._unit(channels, OWN, OTHER)
        self.y_from_both = self._unit(channels, OTHER, OWN)

    @staticmethod
    def _unit(channels: int, of_x: float, of_y: float) -> nn.Sequential:
        conv = nn.Conv2d(2 * channels, channels, 1, bias=False)
        identity = torch.eye(channels)
        with torch.no_grad():
            conv.weight.copy_(torch.cat([of_x * identity, of_y * identity], dim=1)[:, :, None, None])
        return nn.Sequential(conv, FusedBatchNormAct2d(channels, activation="relu"))

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        both = torch.cat([x, y], dim=1)
        return self.x_from_both(both), self.y_from_both(both), None


class MTANSharing(Sharing):
    """x' = a . x, a = sigmoid(bn(conv1(relu(bn(conv1([y, x])))))) (Liu et al., "MTAN", CVPR 2019).

    MTAN attends to the features p of one shared network, seeing earlier features u of it and the task's
    previous ones. With two branches the other task's features take the place of u, and the task's own are
    "previous" and p.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.x_attention = self._attention(channels)
        self.y_attention = self._attention(channels)

    @staticmethod
    def _attention(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False),
            FusedBatchNormAct2d(channels, activation="relu"),
            nn.Conv2d(channels, channels, 1, bias=False),
            FusedBatchNormAct2d(channels, activation="sigmoid"),
        )

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        x_mask = self.x_attention(torch.cat([y, x], dim=1))
        y_mask = self.y_attention(torch.cat([x, y], dim=1))
        return x_mask * x, y_mask * y, None


class PADSharing(Sharing):
    """x' = x + sigmoid(W_g * y) . (W * y), 3x3 without bias (Xu et al., "PAD-Net", CVPR 2018, its third
    module)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        # One convolution makes message and gate, since both read the same features.
        self.x_from_y = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.y_from_x = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)

    @staticmethod
    def _message(features: Tensor) -> Tensor:
        message, gate = features.chunk(2, dim=1)
        return torch.sigmoid(gate) * message

    def forward(self, x: Tensor, y: Tensor, return_gates: bool = False) -> Shared:
        return x + self._message(self.x_from_y(y)), y + self._message(self.y_from_x(x)), None


SHARING: dict[str, type[Sharing]] = {
    "convflu": ConvFLUSharing,
    "none": NoSharing,
    "hard": HardSharing,
    "cross_stitch": CrossStitch,
    "sluice": Sluice,
    "nddr": NDDR,
    "mtan": MTANSharing,
    "pad": PADSharing,
}


def sharing_class(name: str) -> type[Sharing]:
    """The class of :data:`SHARING` called ``name``; ValueError lists the valid names."""
    if name not in SHARING:
        raise ValueError(f"sharing: one of {', '.join(SHARING)} is needed, got {name!r}")
    return SHARING[name]


def make_sharing(
    name: str, channels: int, *, kernel_size: int = 1, convention: str = "accept", recompute: bool = False
) -> Sharing:
    """The module of :data:`SHARING` called ``name`` for branches of ``channels`` channels.

    Args:
        name: a key of :data:`SHARING`.
        channels: of x and of y, even.
        kernel_size, convention: of the gates of ``convflu``.
        recompute: less memory for more time in the backward of ``convflu``; the others have nothing to
            recompute.

    Raises:
        ValueError: ``name`` is unknown, or ``kernel_size`` or ``convention`` is changed where it has no
            meaning.
    """
    cls = sharing_class(name)
    if issubclass(cls, ConvFLUSharing):
        return cls(channels, kernel_size=kernel_size, convention=convention, recompute=recompute)
    for argument, got, default in (("kernel_size", kernel_size, 1), ("convention", convention, "accept")):
        if got != default:
            raise ValueError(
                f"{argument}: sharing={name!r} has no such gates, leave it at {default!r}; got {got!r}"
            )
    return cls(channels)
