"""selective_share's Triton kernels in the interpreter; test_triton.py starts this with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import fused_ops
from fused_ops import explain, triton_support, tuning, use
from fused_ops.selective_share import reference, triton_plan
from fused_ops.triton_support import Card
from tests.fused_ops.far_apart import far_apart
from tests.fused_ops.selective_share.test_autocast import check_parameters_in_float32
from tests.fused_ops.selective_share.test_op import (
    FORMATS,
    pair,
    strided,
    test_a_single_unit_is_one_direction_of_the_pair,
    test_the_conventions_are_one_function_under_a_flipped_update_gate,
    test_unused_outputs_and_frozen_inputs,
    test_vmap_over_the_backward,
    test_what_is_kept_for_the_backward,
    unit,
)
from tests.numerics import assert_as_accurate_as_eager, outputs_and_gradients

__all__ = [  # what holds for every backend
    "test_a_single_unit_is_one_direction_of_the_pair",
    "test_the_conventions_are_one_function_under_a_flipped_update_gate",
    "test_unused_outputs_and_frozen_inputs",
    "test_vmap_over_the_backward",
    "test_what_is_kept_for_the_backward",
]

# Every kernel, whatever the launch tables choose for tensors as small as those of these tests.
SMALL = {"warps": 4, "stages": 2}
PRODUCTS = {
    **SMALL, "kernel": "products", "pixels": 32, "columns": 32, "reset_columns": 16, "depth": 16,
    "block": 32, "programs": 2,
}  # fmt: skip
PRODUCT_FAMILIES = ("forward", "backward", "weights")
KERNELS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "resident": {
        "forward": {**SMALL, "kernel": "resident", "pixels": 32, "programs": 2},
        "backward": {
            **SMALL,
            "kernel": "pair",
            "pixels": 32,
            "programs": 1,
            **{f"weight_{name}": value for name, value in {**SMALL, "pixels": 64, "programs": 2}.items()},
        },
    },
    "unit": {
        "forward": {**SMALL, "kernel": "unit", "pixels": 64, "columns": 32},
        "backward": {**SMALL, "kernel": "fused", "pixels": 32, "columns": 32, "depth": 16},
        "weights": PRODUCTS,
    },
    "products": dict.fromkeys(PRODUCT_FAMILIES, PRODUCTS),
}


def launch_table(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A launch table with one row for each family, whatever the call."""
    return {f"selective_share.{family}": [{"when": {}, "launch": launch}] for family, launch in rows.items()}


SHAPES = [  # x channels, y channels, images, height, width
    (16, 16, 2, 9, 7),
    (3, 2, 3, 1, 1),
    (7, 31, 2, 5, 3),
    (32, 16, 1, 8, 6),
]


@pytest.fixture
def backend() -> str:
    return "triton"


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One set of kernels for all calls, on a card so small that its programs go through several tiles."""
    monkeypatch.setattr(triton_plan, "card_for", lambda tensor: Card("tiny", (9, 0), 1, 0))
    with tuning.table_given("sm_90", launch_table(KERNELS[request.param])):
        yield str(request.param)


@dataclass(frozen=True)
class Options:
    """How a call is made; ``pair`` false makes the one unit that updates x, with four weights."""

    keep: bool = False
    recompute: bool = False
    gates: bool = False
    pair: bool = True

    def eager(self, x: Tensor, y: Tensor, *weights: Tensor) -> list[Tensor]:
        """In plain PyTorch, for autograd to differentiate."""
        x_out, h_x, r_x, z_x = reference.conv_flu(x, y, weights[:4], self.keep)  # type: ignore[arg-type]
        if not self.pair:
            return [x_out, r_x, h_x, z_x] if self.gates else [x_out]
        y_out, h_y, r_y, z_y = reference.conv_flu(y, x, weights[4:], self.keep)  # type: ignore[arg-type]
        return [x_out, y_out, r_x, h_x, z_x, r_y, h_y, z_y] if self.gates else [x_out, y_out]

    def fused(self, x: Tensor, y: Tensor, *weights: Tensor) -> list[Tensor]:
        how: Any = {
            "convention": "keep" if self.keep else "accept",
            "recompute": self.recompute,
            "return_gates": self.gates,
        }
        with use("triton"):
            if not self.pair:
                found = fused_ops.conv_flu(x, y, weights, **how)
                return [found[0], *found[1]] if self.gates else [found]  # type: ignore[list-item]
            x_out, y_out, *gates = fused_ops.selective_share(x, y, weights[:4], weights[4:], **how)
        return [x_out, y_out, *(gate for unit in gates for part in unit for gate in part)]  # type: ignore[misc]

    def results(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Outputs and gradients: ours, plain PyTorch's in the same dtype, those in float64."""
        dtype = tensors[0].dtype
        doubles = [tensor.double() for tensor in tensors]
        with use("triton"):  # for the backward, too
            ours = outputs_and_gradients(self.fused, tensors, dtype)
        return [
            ours,
            outputs_and_gradients(self.eager, tensors, dtype),
            outputs_and_gradients(self.eager, doubles, dtype),
        ]

    def check(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        ours, eager, exact = self.results(tensors)
        other = "channels_last" if tensors[0].is_contiguous() else "contiguous"
        turned = cast(tensors, tensors[0].dtype, other)
        again = outputs_and_gradients(self.eager, turned, turned[0].dtype)
        assert_as_accurate_as_eager(ours, eager, exact, again)
        return ours


def cast(tensors: Sequence[Tensor], dtype: torch.dtype, memory_format: str = "contiguous") -> list[Tensor]:
    """In this dtype, x and y in this memory format."""
    features, weights = tensors[:2], tensors[2:]
    layout = FORMATS[memory_format]
    return [
        *(tensor.to(dtype).contiguous(memory_format=layout) for tensor in features),
        *(tensor.to(dtype) for tensor in weights),
    ]


# --- values and gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.usefixtures("kernels")
def test_values_and_gradients(memory_format: str, dtype: torch.dtype) -> None:
    for shape in SHAPES if dtype == torch.float32 else SHAPES[::2]:
        odd = shape[0] % 2 == 1
        options = Options(keep=odd, gates=shape[0] != 32)
        ours = options.check(cast(pair(*shape), dtype, memory_format))
        for result in ours[:2]:
            assert result.is_contiguous(memory_format=FORMATS[memory_format])


@pytest.mark.parametrize(
    "options",
    [
        Options(keep=True, recompute=True),
        Options(recompute=True, gates=True),
        Options(recompute=True),
        Options(pair=False),
        Options(keep=True, gates=True, pair=False),
        Options(recompute=True, pair=False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("kernels")
def test_options(options: Options) -> None:
    for shape, memory_format in (((16, 16, 1, 5, 8), "channels_last"), ((18, 5, 1, 7, 5), "contiguous")):
        tensors = cast(pair(*shape), torch.float16, memory_format)
        options.check(tensors if options.pair else tensors[:6])


@pytest.mark.usefixtures("kernels")
def test_parameters_in_float32() -> None:
    """Their gradients, summed in float32, are not rounded to the features' dtype on the way."""
    grads = check_parameters_in_float32("triton", torch.float16)
    assert all(not torch.equal(grad, grad.half().float()) for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [(64, 64), (128, 16), (40, 32), (66, 5), (129, 24)], ids=str)
def test_what_the_launch_tables_choose(channels: tuple[int, int], dtype: torch.dtype) -> None:
    """Also where a tile or a step is wider than the narrower tensor."""
    gates = dtype == torch.float16
    Options(gates=gates).check(cast(pair(*channels, 1, 5, 6), dtype, "channels_last"))


def test_wide_tiles_of_products() -> None:
    """As the launch tables have them for many channels: the ends of kernels in four strips."""
    wide = {**PRODUCTS, "columns": 256, "reset_columns": 256, "depth": 64, "block": 128}
    with tuning.table_given("sm_90", launch_table(dict.fromkeys(PRODUCT_FAMILIES, wide))):
        Options(gates=True).check(cast(pair(256, 70, 1, 5, 6), torch.float32, "channels_last"))


def test_gates_that_were_not_kept_are_made_again_on_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the launch tables say: not of many channels, nor where a gradient reaches the gates from outside."""
    started: list[str] = []
    launch = triton_support.launch

    def noted(kernel: Any, *args: Any, **how: Any) -> None:
        started.append(kernel.fn.__name__)
        launch(kernel, *args, **how)

    monkeypatch.setattr(triton_support, "launch", noted)
    for channels, gates, on_chip in ((16, False, True), (32, False, False), (16, True, False)):
        started.clear()
        tensors = cast(pair(channels, 16, 1, 5, 6), torch.float16, "channels_last")
        Options(recompute=True, gates=gates).check(tensors)
        assert started[0] == "forward_resident" and started[-1] == "add_weight_parts"
        assert started[1:-1] == (
            ["input_gradients_pair", "weight_gradients_unit"]
            if on_chip
            else ["forward_resident", "input_gradients_pair", "weight_gradients_unit"]
        )


@pytest.mark.usefixtures("kernels")
def test_weights_gradients_from_many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card that is far from full: more parts than are added in one step."""
    monkeypatch.setattr(triton_plan, "card_for", lambda tensor: Card("large", (9, 0), 1000, 0))
    Options().check(cast(pair(3, 2, 1, 12, 25), torch.float32))


def test_single_pixels_of_one_channel() -> None:
    """Many such problems, judged together: the error of one number is a matter of luck."""
    found = [Options(gates=True).results(pair(1, 1, 1, 1, 1)) for _ in range(8)]
    together = [
        [torch.stack(parts) for parts in zip(*results, strict=True)] for results in zip(*found, strict=True)
    ]
    assert_as_accurate_as_eager(*together)


# --- where tensors lie --------------------------------------------------------------------------------------


def in_a_room_of_nan(tensor: Tensor, memory_format: str, channels: int) -> Tensor:
    """The same values, as a slice of the channels of a tensor that holds NaN elsewhere."""
    n, c, height, width = tensor.shape
    room = torch.full((n, channels, height, width), float("nan"), dtype=tensor.dtype)
    room = room.contiguous(memory_format=FORMATS[memory_format])
    room[:, 2 : 2 + c] = tensor
    return room[:, 2 : 2 + c]


@pytest.mark.parametrize(
    ("channels", "rooms"),
    [
        ((16, 12), (21, 17, 21, 17)),
        ((16, 12), (21, 21, 21, 21)),
        ((16, 16), (21, 19, 21, 21)),
        ((16, 16), (21, 21, 21, 19)),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.usefixtures("kernels")
def test_slices_are_read_where_they_lie(
    memory_format: str, channels: tuple[int, int], rooms: tuple[int, ...]
) -> None:
    """Both units' tensors alike, or unlike in one way: the kernels serve units that are alike by one code."""
    tensors = pair(*channels, 2, 5, 3)
    grads = [torch.randn(tensor.shape) for tensor in tensors[:2]]
    x, y, *sliced = (
        in_a_room_of_nan(tensor, memory_format, room)
        for tensor, room in zip([*tensors[:2], *grads], rooms, strict=True)
    )
    for one in (x, y):
        assert triton_plan.slice_of(one, FORMATS[memory_format])[0] is one
    leaves = [tensor.detach().requires_grad_() for tensor in (x, y, *tensors[2:])]
    with use("triton"):
        ours = torch.autograd.grad(Options().fused(*leaves), leaves, sliced)
    expected = torch.autograd.grad(Options().eager(*leaves), leaves, grads)
    for our, their in zip(ours, expected, strict=True):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.usefixtures("kernels")
def test_an_infinite_value_meets_no_channel_beyond_the_last(memory_format: str) -> None:
    """It saturates gates; times a weight of zero it is NaN, which must not come back to what is there."""
    tensors = pair(20, 12, 2, 5, 3)
    tensors[:2] = [tensor.contiguous(memory_format=FORMATS[memory_format]) for tensor in tensors[:2]]
    tensors[0][1, 0, 2, 1] = tensors[1][0, 3, 4, 2] = float("inf")
    with use("triton"):
        ours = Options().fused(*tensors)
    for our, their in zip(ours, Options().eager(*tensors), strict=True):
        assert their.isfinite().sum() >= their.numel() - 2
        torch.testing.assert_close(our, their, equal_nan=True)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.usefixtures("kernels")
def test_offsets_beyond_31_bits(memory_format: str) -> None:
    of, (n, c, height, width) = 7 << 20, (11, 2, 4, 8)
    strides = (height * width * of, 1, width * of, of)
    if memory_format == "contiguous":
        strides = (of * height * width, height * width, width, 1)
    tensors = pair(c, c, n, height, width)
    grads = [torch.randn(tensor.shape) for tensor in tensors[:2]]
    x, y, *far_grads = far_apart([*tensors[:2], *grads], strides)
    assert triton_plan.slice_of(x, FORMATS[memory_format])[0] is x
    leaves = [tensor.detach().requires_grad_() for tensor in (x, y, *tensors[2:])]
    with use("triton"):
        outs = Options().fused(*leaves)
        ours = torch.autograd.grad(outs, leaves, far_grads)
    dense = [tensor.detach().requires_grad_() for tensor in tensors]
    expected_outs = Options().eager(*dense)
    expected = torch.autograd.grad(expected_outs, dense, grads)
    for our, their in zip((*outs, *ours), (*expected_outs, *expected), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("kernels")
def test_any_strides() -> None:
    options = Options(gates=True)
    tensors = pair(6, 4, 2, 5, 3)
    expected = outputs_and_gradients(options.eager, tensors, torch.float32)
    permuted = [tensor.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for tensor in tensors]
    mixed = [tensors[0], tensors[1].contiguous(memory_format=torch.channels_last), *tensors[2:]]
    with use("triton"):
        for variant in (permuted, mixed, [strided(tensor) for tensor in tensors]):
            ours = outputs_and_gradients(options.fused, variant, torch.float32)
            for our, their in zip(ours, expected, strict=True):
                torch.testing.assert_close(our, their)


def test_a_slice_of_more_memory_than_kernels_count_is_copied() -> None:
    for channels in (2**10, 2**28):
        strides = (16 * channels, 1, 4 * channels, channels)
        x = torch.empty_strided((3, 2, 4, 4), strides, device="meta")
        found, of = triton_plan.slice_of(x, torch.channels_last)
        assert (found is x and of == channels) == (channels == 2**10)
        assert found is x or of == 2
    # A tile of 256 single pixels reaches over as many images.
    for channels in (2**20, 2**24):
        x = torch.empty_strided((300, 2, 1, 1), (channels, 1, 1, 1), device="meta")
        found, of = triton_plan.slice_of(x, torch.contiguous_format)
        assert (found is x and of == channels) == (channels == 2**20)


def test_expanded_gradients() -> None:
    leaves = [tensor.requires_grad_() for tensor in pair(5, 4, 2, 3, 3)]
    with use("triton"):
        ours = torch.autograd.grad(sum(o.sum() for o in Options().fused(*leaves)), leaves)
    expected = torch.autograd.grad(sum(o.sum() for o in Options().eager(*leaves)), leaves)
    for our, their in zip(ours, expected, strict=True):
        torch.testing.assert_close(our, their)


# --- manners ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("kernels")
def test_the_same_call_gives_the_same_bits() -> None:
    tensors = cast(pair(16, 8, 1, 12, 10), torch.float16)
    with use("triton"):
        first, second = (outputs_and_gradients(Options().fused, tensors, torch.float16) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_precision_follows_torchs_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = torch.backends.cuda.matmul
    before = setting.fp32_precision
    try:
        for value, expected in (("ieee", "ieee"), ("tf32", "tf32"), ("none", "ieee")):
            setting.fp32_precision = value
            assert triton_plan.precision_of(torch.float32) == expected
            assert triton_plan.precision_of(torch.float16) == "tf32"  # of no effect on such factors
    finally:
        setting.fp32_precision = before


def test_whom_it_refuses() -> None:
    x, y, *weights = pair(4, 3, 2, 5, 5)

    def call(dtype: torch.dtype = torch.float32, images: int = 2, size: int = 1) -> None:
        features = [t[:1, :, :1, :1].to(dtype).expand(images, -1, size, size) for t in (x, y)]
        these = [weight.to(dtype) for weight in weights]
        fused_ops.selective_share(*features, these[:4], these[4:])

    with use("triton"):
        assert explain(call)[0].backend == "triton"
        for arguments, reason in (
            ({"dtype": torch.float64}, "no kernel for torch.float64"),
            ({"dtype": torch.bfloat16}, "bfloat16 wrongly"),
            ({"images": 0}, "the tensors are empty"),
            ({"size": 2**13}, "in 31 bits"),
            ({"images": 2**20 + 1, "size": 2**5}, "in 31 bits"),
        ):
            with pytest.raises(RuntimeError, match=reason):
                call(**arguments)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="only 1x1 kernels, these are 3x3"):
            fused_ops.selective_share(x, y, unit(4, 3, kernel=3), unit(3, 4, kernel=3))
    assert explain(call)[0].reasons["triton"] == "the tensors are on cpu"  # but for those who ask for it
    assert explain(call, images=0)[0].backend == "reference"


def test_explain_names_kernels_and_rows_of_the_launch_tables() -> None:
    x, y, *weights = cast(pair(16, 16, 1, 5, 4), torch.float16)
    with use("triton"):
        (decision,) = explain(fused_ops.selective_share, x, y, weights[:4], weights[4:])
    assert decision.how[0].startswith("selective_share.forward: row 3 of sm_90.json (for cards with wgmma")
    assert decision.how[1:] == ("kernel forward_resident",)
    assert "by kernel forward_resident" in str(decision)
