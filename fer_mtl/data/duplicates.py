"""Pictures that are in a set twice: bit for bit, or nearly (compressed again, resized, in other light)."""

from __future__ import annotations

import hashlib

import torch
from torch.nn.functional import adaptive_avg_pool2d

# Two pictures are nearly the same when their 24 x 24 grey thumbnails correlate at least this much. Measured:
# copies compressed with JPEG quality 60, shrunk to 40 pixels and back, or brightened correlate by 0.9926 or
# more; pictures of two people by at most 0.952 (CK+48) and 0.988 (drawn faces in one pose and light).
NEAR = 0.99
_SIDE = 24
_BLOCK = 2048  # thumbnails compared at once: 16 MiB of results


def exact_duplicates(images: torch.Tensor) -> list[list[int]]:
    """Groups of indices of equal pictures, uint8 [n, C, S, S], each group in order."""
    groups: dict[bytes, list[int]] = {}
    for i, image in enumerate(images):
        digest = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()
        groups.setdefault(digest, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def near_duplicates(images: torch.Tensor, threshold: float = NEAR) -> list[tuple[int, int]]:
    """Pairs i < j of pictures, uint8 [n, C, S, S], that are nearly the same but not equal, in order.

    Compares every picture with every other one: about 1e9 pairs in a minute on two cores.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold!r}")
    thumbs = torch.cat([_thumbnails(block) for block in images.split(_BLOCK)]) if len(images) else images
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(images), _BLOCK):
        rows = thumbs[start : start + _BLOCK]
        for offset in range(start, len(images), _BLOCK):
            alike = rows @ thumbs[offset : offset + _BLOCK].T >= threshold
            for i, j in (alike.nonzero() + torch.tensor([start, offset])).tolist():
                if i < j and not images[i].equal(images[j]):
                    pairs.append((i, j))
    return sorted(pairs)


def _thumbnails(images: torch.Tensor) -> torch.Tensor:
    """float32 [n, 24 * 24]: grey, without mean, of length one (a picture of one colour: all zero)."""
    grey = images.float().mean(1, keepdim=True)
    small = adaptive_avg_pool2d(grey, _SIDE).flatten(1)
    small = small - small.mean(1, keepdim=True)
    return small / small.norm(dim=1, keepdim=True).clamp_min(1e-3)
