"""Faces as picture files, and pictures with what was read in them."""

from __future__ import annotations

import io
from collections.abc import Iterable

import torch
from PIL import Image, ImageDraw

from fer_mtl.evaluation.plots import BLUE
from fer_mtl.faces import Face
from fer_mtl.fonts import pillow_font


def to_image(face: torch.Tensor) -> bytes:
    """A face float ``[1 or 3, H, W]`` in [0, 1] as the bytes of a PNG file of its own size."""
    if face.dim() != 3 or face.shape[0] not in (1, 3):
        raise ValueError(f"face must be [1 or 3, H, W], got {list(face.shape)}")
    pixels = (face.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def captioned(picture: Image.Image, faces: Iterable[tuple[Face, str]]) -> Image.Image:
    """The picture in mode "RGB" with a box around each face and its caption above it, or inside where the
    picture ends. Lines and letters grow with the picture."""
    shown = picture.convert("RGB")
    draw, side = ImageDraw.Draw(shown), min(shown.size)
    size, width = max(10, side // 24), max(1, side // 200)
    for face, caption in faces:
        font = pillow_font(caption, size)
        left, top, width_of_face, height_of_face = face.box
        draw.rectangle((left, top, left + width_of_face, top + height_of_face), outline=BLUE, width=width)
        x0, y0, x1, y1 = draw.textbbox((0, 0), caption, font=font)
        wide, high = x1 - x0 + 4 * width, y1 - y0 + 4 * width
        x = max(0, min(left, shown.width - wide))
        y = top - high if top >= high else max(0, top)
        draw.rectangle((x, y, x + wide, y + high), fill=BLUE)
        draw.text((x - x0 + 2 * width, y - y0 + 2 * width), caption, font=font, fill="white")
    return shown
