from __future__ import annotations

import pytest
import torch

from fer_mtl.evaluation.stock import stock_twin
from fer_mtl.models.fersnet import FERSNet
from fused_ops import FusedAdaIN, FusedBatchNormAct2d, FusedInstanceNormAct2d, FusedSelectiveShare


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
    twin = stock_twin(model)
    fused = (FusedAdaIN, FusedBatchNormAct2d, FusedInstanceNormAct2d, FusedSelectiveShare)
    assert not any(isinstance(module, fused) for module in twin.modules())
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
