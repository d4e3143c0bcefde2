"""What fuse may not change: values, dtypes, and what is done in place."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from fused_ops.fuse import fuse


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.1), nn.ELU()], ids=str)
@pytest.mark.parametrize("side", [6, 96])
def test_outputs_may_be_written_into_where_torch_s_may(activation: nn.Module, side: int) -> None:
    original = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), activation).double()
    model, report = fuse(original)
    assert len(report.fused) == 1
    x = torch.randn(2, 4, side, side, dtype=torch.float64)
    grads = []
    for module in (original, model):
        y = module(x)
        y += x  # as in Darknet's residual blocks
        grads.append(torch.autograd.grad(y.square().sum(), list(module.parameters())))
    torch.testing.assert_close(*grads)


def test_of_two_norms_in_a_sum_one_is_fused() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b1, self.b2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b1(x) + self.b2(2 * x))

    original, x = Sum(), torch.randn(2, 4, 3, 3)
    model, report = fuse(original)
    assert report.fused == {"b1": "add + relu"}
    assert report.skipped == {"b2": "what follows is fused with another norm"}
    torch.testing.assert_close(model(x), original(x))


def test_what_torch_takes_and_the_fused_norms_do_not_goes_torch_s_way() -> None:
    for norm, x in (
        (nn.GroupNorm(2, 4, eps=0.0), torch.randn(2, 4, 3, 3)),
        (nn.InstanceNorm2d(8), torch.randn(2, 4, 3, 3)),
        (nn.InstanceNorm2d(4, track_running_stats=True), torch.randn(2, 4, 3, 3).double()),
    ):
        model, report = fuse(nn.Sequential(norm, nn.ReLU()))
        assert len(report.fused) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of the other number of channels
            try:
                expected = norm(x).relu()
            except RuntimeError as error:  # torch 2.10 takes no other dtype than the statistics'
                with pytest.raises(RuntimeError, match=re.escape(str(error))):
                    model(x)
                continue
            torch.testing.assert_close(model(x), expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no MKL-DNN")
def test_tensors_that_are_not_dense_go_torch_s_way() -> None:
    original, x = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).eval(), torch.randn(2, 4, 96, 96)
    y = fuse(original).model(x.to_mkldnn())
    assert y.layout is torch._mkldnn
    torch.testing.assert_close(y.to_dense(), original(x))


def test_an_in_place_sum_keeps_the_norm_s_dtype() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 4)

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            y = self.norm(x)
            y += other
            return torch.relu(y)

    original = Sum().bfloat16()
    model, report = fuse(original)
    assert report.fused == {"norm": "add + relu"}
    x, other = torch.randn(2, 4, 3, 3).bfloat16(), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(model(x, other), original(x, other))


def test_what_is_done_in_place_shows_wherever_it_did() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            before = self.conv(x)
            after = before
            after *= 2
            x -= 1
            after /= 3
            return torch.relu(self.norm(x)) + before

    original = Net()
    model, report = fuse(original)
    assert report.fused == {"norm": "relu"}
    x = [torch.randn(2, 4, 3, 3)] * 2
    x = [value.clone() for value in x]
    torch.testing.assert_close(model(x[0]), original(x[1]))
    torch.testing.assert_close(*x)


def test_a_sum_that_broadcasts_or_promotes_stays_right() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(2, 4)

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return torch.relu(other + self.norm(x))

    original, x = Sum(), torch.randn(2, 4, 3, 3)
    model, report = fuse(original)
    assert report.fused == {"norm": "add + relu"}
    for other in (torch.randn(1, 4, 1, 1), torch.randn(2, 4, 3, 3).double(), torch.randn(2, 4, 3, 3)):
        torch.testing.assert_close(model(x, other), original(x, other))
