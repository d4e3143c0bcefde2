"""Keeping synthetic images out of batch norm's running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, batch norms of ``model`` normalise as in training but leave their running statistics alone.

    For passes over synthetic images in training (the cycle term): gradients and batch statistics are those of
    a training pass, while ``running_mean``, ``running_var`` and ``num_batches_tracked``, which evaluation
    uses, keep describing real faces. A model in evaluation mode is not affected. May be nested.
    """
    tracking = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    try:
        for module in tracking:
            # An untracked norm in training mode uses the batch; in evaluation it still finds its running
            # statistics.
            module.track_running_stats = False
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
