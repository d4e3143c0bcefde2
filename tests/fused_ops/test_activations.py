"""The table of activations against PyTorch's autograd, and against the kernels' list of indices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fused_ops.activations import ACTIVATIONS, BY_INDEX, resolve

HEADER = Path(__file__).parents[2] / "csrc" / "common" / "activations.h"
SLOPE = 0.2


def test_the_kernels_know_the_same_indices() -> None:
    listed = dict(re.findall(r"^  (\w+) = (\d+),$", HEADER.read_text(), flags=re.MULTILINE))
    assert {name: int(index) for name, index in listed.items()} == {
        name: row.index for name, row in ACTIVATIONS.items()
    }
    assert [row.index for row in BY_INDEX] == list(range(len(BY_INDEX)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_derivative_is_autograds_also_at_the_kinks(name: str) -> None:
    row = ACTIVATIONS[name]
    z = torch.cat([torch.linspace(-8, 8, 161), torch.tensor([-3.0, 0.0, 3.0, 30.0, -30.0])]).double()
    z.requires_grad_()
    y = row.function(z, SLOPE)
    (expected,) = torch.autograd.grad(y.sum(), z)
    found = row.derivative((y if row.backward_needs == "output" else z).detach(), SLOPE)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_only_invertible_activations_are_marked_so(name: str) -> None:
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    steps = ACTIVATIONS[name].function(z, SLOPE).diff()
    saturates = name in ("tanh", "sigmoid")  # one-to-one, but rounding makes them flat far out
    assert (ACTIVATIONS[name].inverse is not None) == (bool((steps > 0).all()) and not saturates)


@pytest.mark.parametrize("name", [name for name, row in ACTIVATIONS.items() if row.inverse is not None])
def test_the_inverse_gives_the_input_back(name: str) -> None:
    row = ACTIVATIONS[name]
    assert row.inverse is not None
    for dtype in (torch.float32, torch.float64):
        z = torch.cat([torch.linspace(-8, 8, 161), torch.tensor([0.0, -0.0, 30.0])]).to(dtype)
        # elu comes close to -1, where each rounding of it is exp(-z) of z
        tolerance = 4 * torch.finfo(dtype).eps * (3000 if name == "elu" else 1)
        torch.testing.assert_close(
            row.inverse(row.function(z, SLOPE), SLOPE), z, rtol=tolerance, atol=tolerance
        )
    far = row.function(torch.tensor([-1e3]), SLOPE)
    assert row.inverse(far, SLOPE).isfinite()


def test_slopes() -> None:
    assert resolve("leaky_relu", None) == (2, 0.01)
    assert resolve("leaky_relu", 0) == (2, 0.0)
    assert resolve("relu", None) == (1, 0.0)


@pytest.mark.parametrize(
    ("name", "slope", "error", "message"),
    [
        ("reLU", None, ValueError, r"activation is 'reLU'; known activations are 'identity', 'relu'"),
        (torch.relu, None, TypeError, r"known activations are 'identity'"),
        ("relu", 0.1, ValueError, r"negative_slope is 0.1, but 'relu' has no slope"),
        ("leaky_relu", -0.1, ValueError, r"negative_slope is -0.1; it must be a number, 0 or above"),
        ("leaky_relu", "0.1", TypeError, r"negative_slope is '0.1'; it must be a number, 0 or above"),
        ("leaky_relu", float("nan"), ValueError, r"negative_slope is nan"),
    ],
)
def test_bad_names_and_slopes(name: str, slope: float | None, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(name, slope)
