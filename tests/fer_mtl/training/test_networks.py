"""The optimiser that a configuration asks for."""

from __future__ import annotations

import pytest
import torch

from fer_mtl.training.networks import make_optimiser
from fer_mtl.training.presets import preset_config

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("weight_layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
def test_the_update_is_adams_whatever_the_layout_of_the_gradient(
    weight_layout: torch.memory_format, gradient_layout: torch.memory_format
) -> None:
    config = preset_config("small")
    options = config.optimiser
    start = torch.randn(8, 4, 3, 3)
    module = torch.nn.ParameterList([start.contiguous(memory_format=weight_layout)])
    expected = torch.nn.Parameter(start.double())
    ours = make_optimiser(config, module, None)
    plain = torch.optim.Adam(
        [expected], options.learning_rate, options.betas, weight_decay=options.weight_decay, foreach=False
    )
    for _ in range(3):
        gradient = torch.randn(start.shape)
        module[0].grad = gradient.contiguous(memory_format=gradient_layout)
        expected.grad = gradient.double()
        ours.step()
        plain.step()
    torch.testing.assert_close(module[0].detach().double(), expected.detach(), atol=1e-6, rtol=0)
    assert module[0].is_contiguous(memory_format=weight_layout)
