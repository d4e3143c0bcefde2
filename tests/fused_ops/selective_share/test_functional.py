"""Bad input to the functional twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_ops

META = torch.empty(2, 4, 5, 5, device="meta")


def unit(target: int, source: int, kernel: int = 1) -> list[Tensor]:
    shapes = ((source, target + source), (target, source), (target, target), (target, target + source))
    return [torch.randn(*shape, kernel, kernel) for shape in shapes]


def good() -> dict[str, object]:
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 5, 5)
    return {"x": x, "y": y, "x_from_y": unit(4, 3), "y_from_x": unit(3, 4)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": 3}, TypeError, "x must be a Tensor .*, got int"),
        ({"y": torch.randn(2, 3, 5, 5).to_sparse()}, TypeError, "y must be dense .*, got torch.sparse_coo"),
        ({"x": torch.randn(4, 5, 5)}, ValueError, r"x must have 4 dimensions .*\[4, 5, 5\]"),
        ({"x": torch.ones(2, 4, 5, 5, dtype=torch.int64)}, TypeError, "x must be of a floating point dtype"),
        ({"y": torch.randn(2, 3, 5, 6)}, ValueError, "must agree in N, H and W"),
        ({"y": torch.randn(2, 3, 5, 5).double()}, TypeError, "y is torch.float64 and x is torch.float32"),
        ({"y": torch.randn(2, 3, 5, 5, device="meta")}, ValueError, "y is on meta and x on cpu"),
        ({"y": torch.randn(2, 5, 5, 5)}, ValueError, r"x_from_y.W_r must have shape \[5, 9, k, k\]"),
        ({"x_from_y": unit(4, 3, kernel=2)}, ValueError, "kernel of 2 x 2; only odd kernels"),
        (
            {"x_from_y": fused_ops.FusedConvFLU(4, 3)},
            TypeError,
            "x_from_y must be a sequence of .*, got FusedConvFLU",
        ),
        ({"x_from_y": unit(4, 3)[:3]}, ValueError, "x_from_y must hold the four weights"),
        ({"y_from_x": (*unit(3, 4)[:3], None)}, TypeError, "y_from_x must hold four Tensors .*, NoneType"),
        ({"y_from_x": [w.double() for w in unit(3, 4)]}, TypeError, "y_from_x.W_r is torch.float64"),
        ({"y_from_x": [w.to("meta") for w in unit(3, 4)]}, ValueError, "y_from_x.W_r is on meta"),
        ({"x": META, "y": META.double()}, TypeError, "y is torch.float64 and x is torch.float32"),
        ({"convention": "both"}, ValueError, "convention is 'both'; allowed are 'accept', 'keep'"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fused_ops.selective_share(**{**good(), **change})  # type: ignore[arg-type]


FLOAT64 = {
    "y": {"x": torch.randn(2, 4, 5, 5).double()},  # is float32 beside a float64 x
    "x_from_y.W_r": {"x": torch.randn(2, 4, 5, 5).double(), "y": torch.randn(2, 3, 5, 5).double()},
    "y_from_x.W": {"y_from_x": [w.double() if i == 1 else w for i, w in enumerate(unit(3, 4))]},
}


@pytest.mark.parametrize("name", FLOAT64)
def test_autocast_leaves_float64_alone_so_it_does_not_mix(name: str) -> None:
    arguments = {**good(), **FLOAT64[name]}
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TypeError, match=rf"{name} is torch.float(32|64) and .* torch.float(64|32)"),
    ):
        fused_ops.selective_share(**arguments)  # type: ignore[arg-type]


def test_float64_alone_stays_float64_under_autocast() -> None:
    def double(value: object) -> object:
        return value.double() if isinstance(value, Tensor) else [weight.double() for weight in value]  # type: ignore[attr-defined]

    arguments = {name: double(value) for name, value in good().items()}
    expected = fused_ops.selective_share(**arguments)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused_ops.selective_share(**arguments), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", [False, True])
def test_gates_are_kept_unless_they_are_to_be_made_again(pair: bool) -> None:
    x, y, *units = good().values()
    x.requires_grad_()  # type: ignore[attr-defined]
    call, args = (fused_ops.selective_share, units) if pair else (fused_ops.conv_flu, units[:1])
    kept = []
    for options in ({}, {"recompute": True}):
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t), lambda t: t):
            call(x, y, *args, **options)  # type: ignore[operator]
        kept.append(sum(tensor.numel() for tensor in saved))
    assert kept[0] > kept[1]
