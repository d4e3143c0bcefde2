import copy

import pytest
import torch
from torch import nn

from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.statistics import frozen_statistics


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def test_a_training_pass_moves_statistics_unless_frozen():
    torch.manual_seed(0)
    model = FERSNet(width=0.125, image_size=32).train()
    before = buffers(model)
    images = torch.rand(4, 3, 32, 32)
    with frozen_statistics(model):
        model(images)
    torch.testing.assert_close(buffers(model), before, rtol=0, atol=0)
    model(images)
    assert all((value != before[name]).any() for name, value in buffers(model).items())


def test_frozen_pass_computes_what_a_training_pass_does():
    torch.manual_seed(0)
    model = FERSNet(width=0.125, image_size=32).train()
    twin = copy.deepcopy(model)
    images = torch.rand(4, 3, 32, 32)
    with frozen_statistics(model):
        frozen = model(images)["logits"]
    free = twin(images)["logits"]
    torch.testing.assert_close(frozen, free)
    frozen.sum().backward()
    free.sum().backward()
    torch.testing.assert_close(model.stem.conv.weight.grad, twin.stem.conv.weight.grad)


def test_evaluation_is_not_affected():
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.fill_(5)
    x = torch.rand(2, 3, 4, 4)
    with frozen_statistics(norm):
        inside = norm(x)
    torch.testing.assert_close(inside, norm(x))


def test_nesting_and_errors_restore():
    norm = nn.BatchNorm2d(3)
    untracked = nn.BatchNorm2d(3, track_running_stats=False)
    model = nn.Sequential(norm, untracked)
    with pytest.raises(RuntimeError), frozen_statistics(model):
        with frozen_statistics(model):
            pass
        assert not norm.track_running_stats
        raise RuntimeError
    assert norm.track_running_stats and not untracked.track_running_stats
