"""Models that tests of fuse are about, and what fuse makes of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_ops import explain


class ResidualBlock(nn.Module):
    """As in residual networks: one ReLU module called twice, an in-place sum, an optional shortcut."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, 1, 1), nn.Conv2d(c_out, c_out, 3, 1, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Parameter(torch.ones(2))
        self.note = "kept"
        same = c_in == c_out
        self.shortcut = None if same else nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            identity = self.shortcut(x)
        out += identity
        return self.relu(out)


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4), nn.GroupNorm(1, 4)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[0](x))
        x = F.leaky_relu(self.norms[1](x), 0.2)
        y = self.norms[2](x).tanh()
        return F.gelu(y + self.norms[3](y))


class OwnModules(nn.Module):
    """Activations as modules of their own: nothing but modules need be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.act1 = nn.GroupNorm(2, 4), nn.SiLU()
        self.norm2, self.act2 = nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(self.norm2(self.act1(self.norm1(x))))


class Placeholders(nn.Module):
    """Blocks in which other networks of their kind have something between norm and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.drop1, self.act1 = nn.BatchNorm2d(4), nn.Identity(), nn.ReLU()
        self.norm2, self.drop2, self.drop3 = nn.GroupNorm(2, 4), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.drop1(self.norm1(x)))
        y = self.drop3(self.drop2(self.norm2(y)))
        y += x
        return F.leaky_relu(y)


class Branches(nn.Module):
    """What is within brackets is a function of its own before Python 3.12, and so is what is after def."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(torch.stack([conv(x) for conv in self.convs]).sum(0)))
        y = sum(conv(y) + x for conv in self.convs)

        def shifted(z: Tensor) -> Tensor:
            return z + x

        return F.silu(self.norm2(shifted(y)))


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.InstanceNorm2d(4)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(x) + x), 2)
        return self.pool(torch.tanh(self.norm2(torch.cat([x, x], dim=2))))


def twice() -> nn.Module:
    """The second call stands between the norm and what would otherwise follow it."""
    act = nn.SiLU()
    return nn.Sequential(act, nn.BatchNorm2d(4), act, nn.Softplus())


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 3), *modules)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "sequential": (
        lambda: chain(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.ELU()),
        {"1": "relu", "4": "elu"},
    ),
    "nested": (
        lambda: nn.Sequential(
            chain(nn.InstanceNorm2d(4), nn.LeakyReLU(0.2)), nn.Sequential(nn.Conv2d(4, 2, 1))
        ),
        {"0.1": "leaky_relu"},
    ),
    "residual": (
        lambda: nn.Sequential(ResidualBlock(4, 4), ResidualBlock(4, 6)),
        {"0.bn1": "relu", "0.bn2": "add + relu", "1.bn1": "relu", "1.bn2": "add + relu"},
    ),
    "functions": (
        Functions,
        {"norms.0": "silu", "norms.1": "leaky_relu", "norms.2": "tanh", "norms.3": "add + gelu"},
    ),
    "branches": (Branches, {"norm1": "relu", "norm2": "silu"}),
    "own modules": (OwnModules, {"norm1": "silu", "norm2": "leaky_relu"}),
    "placeholders": (
        lambda: nn.Sequential(
            Placeholders(), nn.BatchNorm2d(4), nn.Identity(), nn.Identity(), nn.ReLU(), nn.MaxPool2d(2)
        ),
        {"0.norm1": "relu", "0.norm2": "add + leaky_relu", "1": "relu + max-pool"},
    ),
    "placeholders at the end": (lambda: chain(nn.BatchNorm2d(4), nn.Identity()), {}),
    "pooled": (lambda: chain(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), {"1": "relu + max-pool"}),
    "pooled by calls": (Pooled, {"norm1": "add + relu + max-pool", "norm2": "tanh + max-pool"}),
    "pooled, but decreasing": (lambda: chain(nn.GroupNorm(2, 4), nn.SiLU(), nn.MaxPool2d(2)), {"1": "silu"}),
    "one module twice": (twice, {"1": "silu"}),
}


def served(model: nn.Module, *inputs: Tensor) -> int:
    """How many fused norms a call runs."""
    return len(explain(model, *inputs))
