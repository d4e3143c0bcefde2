"""The networks and the optimiser that a configuration asks for."""

from __future__ import annotations

import pytest
import torch

from fer_mtl.training.networks import build_networks, make_optimiser
from fer_mtl.training.presets import preset_config

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def test_what_cannot_be_told_apart_is_named() -> None:
    config, cpu = preset_config("small", model={"image_size": 32, "width": 0.125}), torch.device("cpu")
    with pytest.raises(ValueError, match="the data must show 2 or more expressions, got 1"):
        build_networks(config, 1, 5, cpu)
    with pytest.raises(ValueError, match=r"must show 2 or more subjects .* got 1 .*--method baseline"):
        build_networks(config, 7, 1, cpu)
    alone = preset_config("small", model={**vars(config.model), "synthesis": False, "sharing": "none"})
    assert build_networks(alone, 7, 1, cpu).identity is None


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


def test_the_gradient_of_a_kernel_of_one_pixel_is_not_copied() -> None:
    weight = torch.nn.Parameter(torch.empty(8, 4, 1, 1, memory_format=torch.channels_last).normal_())
    optimiser = make_optimiser(preset_config("small"), torch.nn.ParameterList([weight]), None)
    weight.grad = gradient = torch.randn(8, 4, 1, 1)
    assert gradient.stride() != weight.stride()
    optimiser.step()
    assert weight.grad is gradient
