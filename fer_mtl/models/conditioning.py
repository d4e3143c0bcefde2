"""How a target expression reaches a network: as a code of length E, one-hot or soft."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def expression_codes(expression: Tensor, num_expressions: int, dtype: torch.dtype) -> Tensor:
    """Turn target expressions into codes.

    Args:
        expression: int64 [N] labels, or floating point [N, E] codes. Codes are taken as they are, so that a
            mixture of two one-hot codes asks for a face between two expressions.
        num_expressions: E.
        dtype: floating-point type of the result.

    Returns:
        [N, E] of ``dtype``.

    Raises:
        TypeError: ``expression`` is no tensor, or neither int64 nor floating point.
        ValueError: its shape is neither [N] (labels) nor [N, E] (codes), or a label lies outside 0 .. E-1.
    """
    if not isinstance(expression, Tensor):
        raise TypeError(f"expression: a tensor of labels or codes is needed, got {type(expression).__name__}")
    if expression.is_floating_point():
        if expression.dim() != 2 or expression.shape[1] != num_expressions:
            raise ValueError(
                f"expression: codes must be [N, {num_expressions}] (one column per expression), "
                f"got {list(expression.shape)}"
            )
        return expression.to(dtype)
    if expression.dtype != torch.int64:
        raise TypeError(
            f"expression: int64 labels or floating-point codes are needed, got {expression.dtype}"
        )
    if expression.dim() != 1:
        raise ValueError(f"expression: labels must be [N], got {list(expression.shape)}")
    # Reading values would break a traced graph and make a GPU wait; there torch stops on a wrong index.
    if expression.device.type == "cpu" and expression.numel() and not torch.compiler.is_compiling():
        lowest, highest = int(expression.min()), int(expression.max())
        if lowest < 0 or highest >= num_expressions:
            raise ValueError(
                f"expression: labels 0 .. {num_expressions - 1} are allowed, got {lowest} .. {highest}"
            )
    return F.one_hot(expression, num_expressions).to(dtype)
