"""What is tested: norms with their options, computed by the fused ops and by torch's own chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_ops
from fused_ops.activations import ACTIVATIONS

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class Case:
    """One kind of norm with its options; "running" is batch norm with running statistics."""

    norm: str
    activation: str = "identity"
    affine: bool = True
    residual: bool = False
    noise: bool = False
    inplace: bool = False
    pool: int = 1

    def __str__(self) -> str:
        names = ("affine", "residual", "noise", "inplace")
        options = [name for name in names if getattr(self, name)] + ["pool"] * (self.pool > 1)
        return "-".join([self.norm, self.activation, *options])

    @property
    def slope(self) -> float | None:
        return 0.2 if self.activation == "leaky_relu" else None

    def activate(self, z: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation].function(z, 0.2)

    def serves(self, shape: Sequence[int]) -> bool:
        if self.pool > 1 and (len(shape) != 4 or min(shape[2:]) < self.pool):
            return False
        one_element = all(size == 1 for size in shape[2:])
        return not (self.norm in ("instance", "adain") and one_element)

    def tensors(self, shape: Sequence[int], channels_last: bool = False) -> list[Tensor]:
        """x, weight, bias, residual, noise, noise_scale as far as the case has them, in float32."""
        n, c, *space = shape
        per = (n, c) if self.norm == "adain" else (c,)
        result = [torch.randn(*shape) * 2 + 0.5]
        if self.affine:
            result += [torch.randn(per), torch.randn(per)]
        if self.residual:
            result += [torch.randn(*shape)]
        if self.noise:
            result += [torch.randn(n, 1, *space), torch.tensor(0.7)]
        if channels_last:
            result = [
                tensor.contiguous(memory_format=FORMATS[len(space)])
                if tensor.shape == result[0].shape
                else tensor
                for tensor in result
            ]
        return result

    def cast(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Low precision for the large tensors, float32 for the small ones, as under autocast."""
        small = torch.float32 if dtype == torch.bfloat16 else dtype
        return [
            tensor.to(small if tensor.dim() <= 2 and tensor is not tensors[0] else dtype)
            for tensor in tensors
        ]

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor | None]:
        rest = list(tensors[1:])
        names = ["weight", "bias"] * self.affine + ["residual"] * self.residual
        names += ["noise", "noise_scale"] * self.noise
        every = dict.fromkeys(("weight", "bias", "residual", "noise", "noise_scale"))
        return {**every, **dict(zip(names, rest, strict=True))}

    def running(self, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        mean = torch.linspace(-1, 1, channels).to(dtype)
        return mean, torch.linspace(0.5, 2, channels).to(dtype)

    def groups(self, channels: int) -> int:
        return 2 if channels % 2 == 0 else 1

    def fused(self, *tensors: Tensor) -> Tensor:
        x, a = tensors[0], self.named(tensors)
        weight, bias = a["weight"], a["bias"]
        how = {"activation": self.activation, "negative_slope": self.slope}
        if self.norm == "adain":
            assert weight is not None and bias is not None
            return fused_ops.adain(x, weight, bias, a["noise"], a["noise_scale"], **how)  # type: ignore[arg-type]
        how |= {"residual": a["residual"], "inplace": self.inplace, "pool": self.pool}  # type: ignore[dict-item]
        if self.norm == "batch":
            return fused_ops.batch_norm_act(x, None, None, weight, bias, True, **how)  # type: ignore[arg-type]
        if self.norm == "running":
            mean, var = self.running(x.size(1), x)
            return fused_ops.batch_norm_act(x, mean, var, weight, bias, **how)  # type: ignore[arg-type]
        if self.norm == "instance":
            return fused_ops.instance_norm_act(x, None, None, weight, bias, **how)  # type: ignore[arg-type]
        return fused_ops.group_norm_act(x, self.groups(x.size(1)), weight, bias, **how)  # type: ignore[arg-type]

    def eager(self, *tensors: Tensor) -> Tensor:
        x, a = tensors[0], self.named(tensors)
        weight, bias = a["weight"], a["bias"]
        if self.norm == "adain":
            if a["noise"] is not None:
                x = x + (a["noise_scale"] * a["noise"]).to(x.dtype)
            ones = (1,) * (x.dim() - 2)
            assert weight is not None and bias is not None
            weight, bias = (value.view(*value.shape, *ones) for value in (weight, bias))
            z = F.instance_norm(x) * weight + bias
        elif self.norm == "batch":
            z = F.batch_norm(x, None, None, weight, bias, True)
        elif self.norm == "running":
            z = F.batch_norm(x, *self.running(x.size(1), x), weight, bias)
        elif self.norm == "instance":
            z = F.instance_norm(x, None, None, weight, bias)
        else:
            z = F.group_norm(x, self.groups(x.size(1)), weight, bias)
        z = z.to(x.dtype)
        y = self.activate(z if a["residual"] is None else z + a["residual"])
        return y if self.pool == 1 else F.max_pool2d(y, self.pool)


CASES = [
    Case("batch", "leaky_relu"),
    Case("batch", "relu", residual=True),
    Case("batch", "tanh", affine=False),
    Case("running", "hardswish", residual=True),
    Case("running", "relu"),
    Case("instance", "leaky_relu", affine=False),
    Case("instance", "gelu", residual=True),
    Case("instance", "elu"),
    Case("group", "silu"),
    Case("group", "sigmoid", affine=False, residual=True),
    Case("group", "identity", residual=True),
    Case("adain", noise=True),
    Case("adain", "relu"),
]

POOLED = [
    Case("batch", "relu", pool=2),
    Case("batch", "relu", residual=True, pool=2),
    Case("running", "leaky_relu", residual=True, pool=2),
    Case("instance", "identity", affine=False, pool=2),
    Case("instance", "elu", residual=True, pool=2),
    Case("group", "tanh", pool=2),
    Case("group", "silu", residual=True, pool=2),
]

# Planes and rows shorter and longer than a vector, channels that fill none, some or all of one, a single
# element, other ranks.
SHAPES = [
    (3, 8, 9, 7),
    (2, 3, 4, 4),
    (2, 66, 5, 3),
    (40, 7, 1, 1),
    (2, 5, 1, 7),
    (4, 6, 13),
    (2, 4, 3, 2, 5),
]
# Enough elements for several threads, with one channel, with a number that threads share badly, with many.
SHAPES_FOR_THREADS = [(3, 1, 128, 110), (1, 5, 83, 80), (2, 130, 13, 11)]


def results(compute: object, tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """The output and the gradients of all tensors for a fixed random gradient of the output.

    That gradient is rounded to ``dtype``, so that a computation in float64 gets the same one as another.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = compute(*leaves)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(y.shape, generator=generator).to(dtype or y.dtype).to(y.dtype)
    return [y.detach(), *(found.detach() for found in torch.autograd.grad(y, leaves, grad))]
