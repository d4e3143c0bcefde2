from __future__ import annotations

import pytest
import torch

from fer_mtl.evaluation.distances import frechet, kernel, mean_cosine


def test_frechet_of_gaussians_that_are_known() -> None:
    """Diagonal covariances commute: |mu|^2 + sum (s1 - s2)^2."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    base = (base - base.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(base.T)).T)
    first, second = base * torch.tensor([1.0, 2.0, 3.0]), base * torch.tensor([2.0, 2.0, 1.0]) + 0.5
    assert frechet(first, second) == pytest.approx(3 * 0.25 + 1 + 0 + 4, rel=1e-6)
    assert frechet(first, first) == pytest.approx(0.0, abs=1e-6)


def test_frechet_takes_fewer_pictures_than_features() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(5, 20, generator=generator), torch.randn(7, 20, generator=generator)
    s1, s2 = torch.cov(first.double().T), torch.cov(second.double().T)
    values = torch.linalg.eigvals(s1 @ s2).real.clamp(min=0)
    shift = (first.double().mean(0) - second.double().mean(0)).square().sum()
    wanted = shift + s1.trace() + s2.trace() - 2 * values.sqrt().sum()
    assert frechet(first, second) == pytest.approx(float(wanted), rel=1e-4)


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 30, 4, generator=generator) for _ in range(200)]
    same = torch.tensor([kernel(a, b) for a, b in draws])
    assert abs(float(same.mean())) < 3 * float(same.std()) / 200**0.5
    assert kernel(draws[0][0], draws[0][1] + 1) > float(same.max())


def test_kernel_distance_by_hand() -> None:
    first, second = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    # k(a, b) = (a b + 1)^3
    assert kernel(first, second) == pytest.approx(3.0**3 + 1.0 - 2 * (1 + 1 + 4**3 + 7**3) / 4)


def test_bad_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"second: features of at least 2 pictures \[n, d\] are needed, got"):
        frechet(torch.zeros(3, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="one width, got 2 and 3"):
        kernel(torch.zeros(3, 2), torch.zeros(3, 3))
    assert mean_cosine(torch.zeros(0, 2), torch.zeros(0, 2)) is None
    assert mean_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])) == pytest.approx(0.5**0.5)
