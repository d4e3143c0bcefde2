"""What follows the norm in a call of ``norm_act``."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fused_ops.activations import BY_INDEX


class After(NamedTuple):
    """The residual, the activation by kernel index with its slope, what is kept, and the pooling."""

    residual: Tensor | None
    activation: int
    slope: float
    inplace: bool
    pool: int

    def is_monotone(self) -> bool:  # no property: Dynamo of torch 2.10 does not know a named tuple's
        """Whether the activation never decreases, so that it can follow the pooling as well."""
        return BY_INDEX[self.activation].backward_needs != "input"

    def apply(self, z: Tensor, owned: bool = False) -> Tensor:
        """In torch's own steps, from the norm's output; in its memory where it is ``owned`` by the caller."""
        z = z if self.residual is None else z + self.residual
        row = BY_INDEX[self.activation]
        function = row.function
        if owned and row.in_place is not None:
            # Of a view autograd would make a copy first.
            allowed = not (z.requires_grad and (z._is_view() or row.output_is_free))
            function = row.in_place if allowed else function
        return self.pooled(function(z, self.slope))

    def pooled(self, y: Tensor) -> Tensor:
        return y if self.pool == 1 else F.max_pool2d(y, self.pool)
