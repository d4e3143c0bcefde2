"""What a check found, and whether the card can still be used after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Found:
    """What a check found: "right", "wrong" or "refused", and details."""

    name: str
    state: str
    detail: str = ""
    error_roundings: float | None = None


def card_answers() -> bool:
    """Whether this process can still use the card."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
