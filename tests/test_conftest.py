"""The rules of conftest.py are in force."""

from __future__ import annotations

import pytest
import torch

from fused_ops import native


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_new_memory_is_poisoned(dtype: torch.dtype) -> None:
    image = torch.zeros(2, 3, 4, 5, dtype=dtype)
    for blank in (
        torch.empty(7, dtype=dtype),
        torch.empty_like(image),
        torch.empty_like(image, memory_format=torch.channels_last),
        image.new_empty(3),
        torch.empty_strided((2, 3), (3, 1), dtype=dtype),
    ):
        assert blank.isnan().all()


@pytest.mark.parametrize("attempt", range(2))
def test_every_test_starts_from_the_same_seed(attempt: int) -> None:
    generator = torch.Generator().manual_seed(20201)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=generator))


@pytest.mark.gpu
def test_gpu_marker_means_there_is_a_card() -> None:
    assert torch.cuda.is_available()
    assert native.why_not_capability((8, 0), {"architectures": [80], "ptx": 80}) is None
