"""A running average of a network's weights, which often generalises better than the weights themselves
(Polyak and Juditsky, 1992; Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def averaged_copy(network: Network) -> Network:
    """A copy of ``network`` to average into; it is never trained itself."""
    average = copy.deepcopy(network)
    average.requires_grad_(False)
    return average.eval()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, updates: int) -> None:
    """average <- d average + (1 - d) network, buffers (batch norm's statistics) included.

    ``updates`` counts the updates before this one: at the start d is smaller than ``decay``, so that the
    first weights, which are far from good, are soon forgotten. Whole numbers are copied.
    """
    d = min(decay, (1 + updates) / (10 + updates))
    new = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(new[name], 1 - d)
        else:
            value.copy_(new[name])
