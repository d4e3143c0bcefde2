"""The definition against the paper's formula, written out once more pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fused_ops.selective_share import reference


@pytest.fixture(params=[reference.PRODUCT_PIXELS, 0], ids=["product", "convolution"], autouse=True)
def few_pixels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """1x1 kernels either way, whatever the number of pixels here."""
    monkeypatch.setattr(reference, "PRODUCT_PIXELS", request.param)


def unit_at_one_pixel(
    x: Tensor, y: Tensor, W_r: Tensor, W: Tensor, U: Tensor, W_z: Tensor, keep: bool
) -> tuple[Tensor, ...]:
    both = torch.cat([x, y])
    r = 1 / (1 + torch.exp(-(W_r @ both)))
    h = torch.tanh(W @ (r * y) + U @ x)
    z = 1 / (1 + torch.exp(-(W_z @ both)))
    return (z * x + (1 - z) * h if keep else (1 - z) * x + z * h), h, r, z


@pytest.mark.parametrize("keep", [False, True])
def test_a_pair_is_the_papers_formula_in_both_directions(keep: bool) -> None:
    cx, cy = 3, 2
    x, y = torch.randn(2, cx, 2, 3).double(), torch.randn(2, cy, 2, 3).double()
    to_x = [torch.randn(o, i).double() for o, i in ((cy, cx + cy), (cx, cy), (cx, cx), (cx, cx + cy))]
    to_y = [torch.randn(o, i).double() for o, i in ((cx, cx + cy), (cy, cx), (cy, cy), (cy, cx + cy))]
    x_out, y_out, gates = reference.forward(
        x, y, *(w[..., None, None] for w in to_x), *(w[..., None, None] for w in to_y), keep
    )
    for n, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(3)).tolist():
        at = (n, slice(None), i, j)
        expected_x, h_x, r_x, z_x = unit_at_one_pixel(x[at], y[at], *to_x, keep)
        expected_y, h_y, r_y, z_y = unit_at_one_pixel(y[at], x[at], *to_y, keep)
        torch.testing.assert_close(x_out[at], expected_x)
        torch.testing.assert_close(y_out[at], expected_y)
        torch.testing.assert_close(gates[at], torch.cat([h_x, r_x, z_x, r_y, z_y, h_y]))


@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("keep", [False, True])
def test_the_written_backward_is_the_derivative_of_the_forward(pair: bool, kernel: int, keep: bool) -> None:
    cx, cy = 3, 2

    def weights(t: int, s: int) -> list[Tensor]:
        shapes = ((s, t + s), (t, s), (t, t), (t, t + s))
        return [torch.randn(*shape, kernel, kernel).double().requires_grad_() for shape in shapes]

    x = torch.randn(2, cx, 3, 4).double().requires_grad_()
    y = torch.randn(2, cy, 3, 4).double().requires_grad_()
    both = [*weights(cx, cy), *(weights(cy, cx) if pair else [None] * 4)]
    x_out, y_out, gates = reference.forward(x, y, *both, keep)
    grads = [torch.randn_like(x_out), torch.randn_like(y_out) if pair else None, torch.randn_like(gates)]
    inputs = [value for value in (x, y, *both) if value is not None]
    outputs = [x_out, y_out, gates] if pair else [x_out, gates]
    expected = torch.autograd.grad(outputs, inputs, [grad for grad in grads if grad is not None])
    for kept in (gates.detach(), None):
        found = [g for g in reference.backward(*grads, x, y, kept, *both, keep) if g.numel()]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
