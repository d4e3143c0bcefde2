from __future__ import annotations

from tests.fused_ops.selective_share.conftest import backend

__all__ = ["backend"]
