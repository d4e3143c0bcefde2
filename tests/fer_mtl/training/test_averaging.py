from __future__ import annotations

import torch
from torch import nn

from fer_mtl.training.averaging import averaged_copy, update_average


def test_the_average_follows_weights_and_statistics() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = averaged_copy(network)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(3)
    update_average(average, network, decay=0.75, updates=1000)
    after = average.state_dict()
    torch.testing.assert_close(after["0.weight"], before["0.weight"] + 0.25 * 3)
    torch.testing.assert_close(after["1.running_mean"], before["1.running_mean"] + 0.25 * 3)
    assert int(after["1.num_batches_tracked"]) == 3


def test_the_first_weights_are_soon_forgotten() -> None:
    network = nn.Linear(1, 1)
    average = averaged_copy(network)
    with torch.no_grad():
        network.weight.add_(1)
    update_average(average, network, decay=0.999, updates=0)
    torch.testing.assert_close(average.weight, network.weight - 0.1)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_reading_with_the_average_moves_nothing_in_it() -> None:
    average = averaged_copy(nn.BatchNorm1d(2).train())
    average(torch.randn(8, 2))
    assert average.running_mean.eq(0).all() and int(average.num_batches_tracked) == 0
