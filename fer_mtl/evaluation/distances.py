"""Distances between two sets of pictures, on features of an extractor that is always named with the number.

Known as FID and KID when the features are Inception's; ours are not, and the numbers do not compare.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance between the Gaussians fitted to features ``[n, d]`` and ``[m, d]``:
    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al., NeurIPS 2017).

    Raises ``ValueError`` for fewer than two rows or unequal widths.
    """
    first, second = _check(first, second)
    shift = (first.mean(0) - second.mean(0)).square().sum()
    s1, s2 = (torch.atleast_2d(torch.cov(features.T)) for features in (first, second))
    # The trace of (S1 S2)^(1/2) is that of (S1^(1/2) S2 S1^(1/2))^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(s1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(shift + s1.trace() + s2.trace() - 2 * cross))


def kernel(first: Tensor, second: Tensor) -> float:
    """Squared maximum mean discrepancy of features ``[n, d]`` and ``[m, d]`` with the kernel (x.y / d + 1)^3,
    the unbiased estimate (Binkowski et al., ICLR 2018), so that small sets can give a little less than 0."""
    first, second = _check(first, second)

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        table = similarity(a, a)
        return (table.sum() - table.trace()) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * similarity(first, second).mean())


def mean_cosine(first: Tensor, second: Tensor) -> float | None:
    """Mean cosine between the rows of two ``[n, d]``; None of nothing."""
    return float(cosine_similarity(first, second).mean()) if len(first) else None


def _check(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for name, features in (("first", first), ("second", second)):
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(
                f"{name}: features of at least 2 pictures [n, d] are needed, got {list(features.shape)}"
            )
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features must have one width, got {first.shape[1]} and {second.shape[1]}")
    return first.double(), second.double()
