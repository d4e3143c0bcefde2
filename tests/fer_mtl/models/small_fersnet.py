"""A FERSNet of which a pass takes milliseconds, and faces for it."""

import torch

from fer_mtl.models.fersnet import FERSNet


def small(**options):
    torch.manual_seed(0)
    return FERSNet(**{"width": 0.125, "image_size": 32, **options})


def faces(n=2, channels=3, size=32, dtype=torch.float32):
    return torch.rand(n, channels, size, size, dtype=dtype, generator=torch.Generator().manual_seed(1))
