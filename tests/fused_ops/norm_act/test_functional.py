"""The functional twins: what they refuse, and that they follow torch.nn.functional in what they raise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fused_ops import adain, batch_norm_act, group_norm_act, instance_norm_act

X = torch.randn(2, 4, 3, 3)
C = torch.ones(4)
NC = torch.ones(2, 4)

BAD_CALLS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("not a tensor", lambda: group_norm_act([1.0], 2), TypeError, "x must be a Tensor, got list"),
    (
        "sparse",
        lambda: group_norm_act(X.to_sparse(), 2),
        TypeError,
        "x must be dense (torch.strided), got torch.sparse_coo",
    ),
    (
        "nested",
        lambda: batch_norm_act(torch.nested.nested_tensor([*X]), C, C),
        TypeError,
        "x must be dense (torch.strided), got a nested tensor",
    ),
    (
        "residual",
        lambda: group_norm_act(X, 2, residual=1.0),
        TypeError,
        "residual must be a Tensor, got float",
    ),
    ("integers", lambda: group_norm_act(X.int(), 2), TypeError, "floating point dtype, got torch.int32"),
    ("too few dims", lambda: instance_norm_act(X[0, 0]), ValueError, "x must be [N, C, *spatial] with a"),
    (
        "no channels",
        lambda: batch_norm_act(C, None, None, training=True),
        ValueError,
        "x must be [N, C, *spatial]",
    ),
    (
        "weight shape",
        lambda: group_norm_act(X, 2, C[:3]),
        ValueError,
        "weight must be [C] = [4], got shape [3]",
    ),
    ("weight type", lambda: group_norm_act(X, 2, 1.0), TypeError, "weight must be a Tensor [C], got float"),
    ("bias dtype", lambda: group_norm_act(X, 2, C, C.double()), TypeError, "bias is torch.float64 and x is"),
    (
        "bias dtype on meta",
        lambda: group_norm_act(X.to("meta"), 2, C.to("meta"), C.to("meta").double()),
        TypeError,
        "bias is torch.float64 and x is",
    ),
    (
        "bias device",
        lambda: group_norm_act(X, 2, C, C.to("meta")),
        ValueError,
        "bias is on meta and x on cpu",
    ),
    (
        "groups",
        lambda: group_norm_act(X, 3),
        ValueError,
        "num_groups is 3; it must divide the number of channels, 4",
    ),
    ("no groups", lambda: group_norm_act(X, 0), ValueError, "num_groups is 0"),
    (
        "one value",
        lambda: group_norm_act(X[:1, :, :1, :1], 4),
        ValueError,
        "Expected more than 1 value per channel",
    ),
    (
        "residual shape",
        lambda: group_norm_act(X, 2, residual=X[:, :2]),
        ValueError,
        "residual must have x's shape",
    ),
    (
        "residual type",
        lambda: group_norm_act(X, 2, residual=1),
        TypeError,
        "residual must be a Tensor, got int",
    ),
    (
        "residual dtype",
        lambda: group_norm_act(X, 2, residual=X.double()),
        TypeError,
        "residual is torch.float64 and",
    ),
    ("eps", lambda: group_norm_act(X, 2, eps=0), ValueError, "eps is 0; it must be above 0"),
    (
        "activation",
        lambda: group_norm_act(X, 2, activation="swish"),
        ValueError,
        "activation is 'swish'; known",
    ),
    ("slope", lambda: group_norm_act(X, 2, activation="silu", negative_slope=1), ValueError, "has no slope"),
    (
        "no statistics",
        lambda: batch_norm_act(X, None, None),
        ValueError,
        "running_mean and running_var must both",
    ),
    ("one statistic", lambda: batch_norm_act(X, C, None, training=True), ValueError, "must both be given"),
    (
        "statistics' shape",
        lambda: batch_norm_act(X, NC, C),
        ValueError,
        "running_mean must be [C] = [4], got",
    ),
    ("gamma shape", lambda: adain(X, C, NC), ValueError, "gamma must be [N, C] = [2, 4], got shape [4]"),
    ("noise alone", lambda: adain(X, NC, NC, X[:, :1]), ValueError, "noise and noise_scale go together"),
    (
        "noise shape",
        lambda: adain(X, NC, NC, X, C[0]),
        ValueError,
        "noise must have [N, 1, *spatial], [2, 1, 3, 3]",
    ),
    (
        "noise scale",
        lambda: adain(X, NC, NC, X[:, :1], 0.5),
        TypeError,
        "noise_scale must be a tensor of one",
    ),
    (
        "noise scale's dtype",
        lambda: adain(X, NC, NC, X[:, :1], C[0].double()),
        TypeError,
        "noise_scale is torch.float64 and x is torch.float32; noise_scale must be torch.float32",
    ),
    (
        "noise scale's device",
        lambda: adain(X, NC, NC, X[:, :1], C[0].to("meta")),
        ValueError,
        "noise_scale is on meta and x on cpu",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [case[1:] for case in BAD_CALLS], ids=[c[0] for c in BAD_CALLS]
)
def test_bad_arguments_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_too_few_values_raise_what_torch_raises() -> None:
    one = torch.randn(1, 4, 1, 1)
    pairs: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
        (
            lambda: batch_norm_act(one, None, None, training=True),
            lambda: F.batch_norm(one, None, None, training=True),
        ),
        (lambda: instance_norm_act(one), lambda: F.instance_norm(one)),
        (lambda: group_norm_act(one, 4), lambda: F.group_norm(one, 4)),
    ]
    for ours, theirs in pairs:
        with pytest.raises(ValueError, match="Expected more than 1") as raised:
            theirs()
        with pytest.raises(ValueError, match=re.escape(str(raised.value).split(",")[0])):
            ours()
    assert batch_norm_act(one, torch.zeros(4), torch.ones(4)).shape == one.shape
    assert group_norm_act(torch.randn(2, 4, 1, 1), 4).shape == (2, 4, 1, 1)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_of_instance_norm(momentum: float) -> None:
    ours, theirs = [[torch.zeros(4), torch.ones(4)] for _ in range(2)]
    for _ in range(3):
        x = torch.randn(3, 4, 5, 6) + 2
        instance_norm_act(x, *ours, momentum=momentum)
        F.instance_norm(x, *theirs, momentum=momentum)
        torch.testing.assert_close(ours, theirs)


def test_mixed_dtypes_compute_in_single_precision() -> None:
    x, weight = torch.randn(2, 4, 9, 9), torch.randn(4)
    y = group_norm_act(x.bfloat16(), 2, weight, activation="silu")
    assert y.dtype == torch.bfloat16
    exact = group_norm_act(x.bfloat16().double(), 2, weight.double(), activation="silu")
    assert (y.double() - exact).abs().max() <= exact.abs().max() * 2**-8
