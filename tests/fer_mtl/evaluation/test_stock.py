from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.accuracy import assert_equal_outputs
from fer_mtl import FERSNet
from fer_mtl.evaluation.stock import to_stock
from fused_ops import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedConvFLU,
    FusedSelectiveShare,
)


@pytest.mark.parametrize("convention", ["accept", "keep"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("image_size", [32, 64])
def test_the_twin_computes_the_same_without_fused_ops(
    convention: str, training: bool, image_size: int
) -> None:
    model = FERSNet(3, image_size, 0.125, convention=convention).double().train(training)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FusedAdaIN):
                module.noise_scale.fill_(0.3)
                module.style.bias.uniform_(-1, 1)
            if isinstance(module, FusedBatchNormAct2d):
                module.running_mean.uniform_(-1, 1)
    twin = to_stock(model)
    assert not any(type(module).__module__.startswith("fused_ops") for module in twin.modules())
    images, labels = torch.rand(4, 3, image_size, image_size, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    outputs = []
    for network in (model, twin):
        torch.manual_seed(0)  # the same noise
        outputs.append(network(images, labels))
    for key in ("logits", "image"):
        torch.testing.assert_close(outputs[0][key], outputs[1][key])
    if training:
        torch.testing.assert_close(
            dict(model.named_buffers())["stem.norm.running_mean"],
            dict(twin.named_buffers())["stem.norm.norm.running_mean"],
        )


@pytest.mark.parametrize("convention", ["accept", "keep"])
def test_both_conventions(convention: str) -> None:
    share = FusedSelectiveShare(4, 6, kernel_size=3, convention=convention)
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 6, 5, 5)
    assert_equal_outputs(share(x, y), to_stock(share)(x, y), tolerance=1e-5)
    unit = FusedConvFLU(4, convention=convention)
    assert_equal_outputs((unit(x, x + 1),), (to_stock(unit)(x, x + 1),), tolerance=1e-5)


def test_the_model_itself_is_left_alone() -> None:
    model = FERSNet(4, 32, width=0.125)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stock = to_stock(model)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(list(stock.parameters())) == len(list(model.parameters()))


def test_an_unknown_fused_module_is_refused() -> None:
    class Unknown(nn.Module):
        pass

    Unknown.__module__ = "fused_ops.somewhere"
    with pytest.raises(ValueError, match="Unknown has no stock form"):
        to_stock(nn.Sequential(Unknown()))
