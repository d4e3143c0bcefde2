"""Faces as picture files."""

from __future__ import annotations

import io

import torch
from PIL import Image


def to_image(face: torch.Tensor) -> bytes:
    """A face float ``[1 or 3, H, W]`` in [0, 1] as the bytes of a PNG file of its own size."""
    if face.dim() != 3 or face.shape[0] not in (1, 3):
        raise ValueError(f"face must be [1 or 3, H, W], got {list(face.shape)}")
    pixels = (face.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()
