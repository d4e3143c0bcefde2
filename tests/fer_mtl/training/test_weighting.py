from __future__ import annotations

import pytest
import torch
from torch import nn

from fer_mtl.training.losses import LossWeights
from fer_mtl.training.weighting import (
    GRADIENT_METHODS,
    GradientWeighting,
    UncertaintyWeighting,
    Weighting,
    make_weighting,
    task_losses,
)

WEIGHTS = LossWeights()


def terms_of(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two tasks whose gradients with respect to the parameter [2] are known: (1, 0) and (-1, 1) * 0.5."""
    return {"classification": parameter[0], "cycle": parameter[1] - parameter[0]}


def test_terms_belong_to_two_tasks() -> None:
    terms = {name: torch.tensor(2.0) for name in ("classification", "penalty", "identity", "cycle")}
    found = task_losses(terms, WEIGHTS)
    assert {name: round(float(value), 4) for name, value in found.items()} == {
        "recognition": 2.02,
        "synthesis": 3.0,
    }
    assert set(task_losses({"classification": torch.tensor(1.0)}, WEIGHTS)) == {"recognition"}


def test_fixed_weights_are_the_published_sum() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    weighting = make_weighting("fixed", WEIGHTS)
    total = weighting.total(terms_of(parameter))
    weighting.backward(terms_of(parameter), total, [parameter])
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad, torch.tensor([0.5, 0.5]))


def test_uncertainty_weights_have_their_formula_and_learn() -> None:
    weighting = make_weighting("uncertainty", WEIGHTS)
    assert isinstance(weighting, UncertaintyWeighting)
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([0.5, -1.0]))
    terms = {"classification": torch.tensor(2.0), "cycle": torch.tensor(4.0)}
    total = weighting.total(terms)
    s = weighting.log_variance.detach()
    wanted = (-s[0]).exp() * 2 + s[0] / 2 + (-s[1]).exp() * 0.5 * 4 + s[1] / 2
    torch.testing.assert_close(total.detach(), wanted)
    weighting.backward(terms, total, [])
    # d/ds_t = 1/2 - exp(-s_t) L_t
    torch.testing.assert_close(weighting.log_variance.grad, 0.5 - (-s).exp() * torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradient_methods_resolve_a_conflict(name: str) -> None:
    """The two gradients conflict; what comes out must not worsen either task."""
    pytest.importorskip("torchjd")
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    weighting = make_weighting(name, WEIGHTS)
    assert isinstance(weighting, GradientWeighting)
    terms = terms_of(parameter)
    weighting.backward(terms, weighting.total(terms), [parameter])
    assert parameter.grad is not None
    rows = torch.tensor([[1.0, 0.0], [-0.5, 0.5]])
    assert (rows @ parameter.grad >= -1e-6).all()
    assert float(parameter.grad.norm()) > 0.01


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_gradient_methods_take_a_single_task(name: str) -> None:
    pytest.importorskip("torchjd")
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    weighting = make_weighting(name, WEIGHTS)
    terms = {"classification": parameter[0] * 3}
    weighting.backward(terms, weighting.total(terms), [parameter])
    torch.testing.assert_close(parameter.grad, torch.tensor([3.0, 0.0]))


def test_an_unknown_weighting_lists_the_known() -> None:
    with pytest.raises(ValueError, match="weighting must be one of fixed, uncertainty, pcgrad"):
        make_weighting("luck", WEIGHTS)
    assert type(make_weighting("fixed", WEIGHTS)) is Weighting
