"""The cost model: what calls cannot do without, what kernels take, and that predictions behave."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fused_ops import tuning
from fused_ops.triton_support import CARDS, Card
from fused_ops.tuning import cost_norm, cost_share
from fused_ops.tuning.cost_model import CEILINGS, Cost, Kernel, ceilings_of, fewest_of_norm, fewest_of_share
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import BACKWARD_WAYS, FORWARD_WAYS, ShareCall
from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter

H100 = CARDS["sm_90"]
LIMITS = {
    way: tuning.choose("sm_90", f"norm_act.{way}", itemsize=2) for way in ("forward", "backward")
}  # fmt: skip
C, PIXELS = 128, 1 << 22  # so many pixels that weights do not count


def large(**changes: bool) -> ShareCall:
    return ShareCall(C, C, PIXELS, 2, **changes)


@needs_triton
def test_triton_kernels_move_and_multiply_what_is_predicted() -> None:
    pass_in_interpreter(Path(__file__).parent / "cost_interpreted.py")


# --- selective_share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", FORWARD_WAYS)
def test_a_forward_takes_24_c_squared(way: str) -> None:
    flops = Cost.of(cost_share.forward(large(), way)).flops
    assert flops == 24 * C**2 * PIXELS == fewest_of_share(C, PIXELS, 2, "forward")[0]


@pytest.mark.parametrize("way", BACKWARD_WAYS)
def test_a_backward_takes_48_c_squared(way: str) -> None:
    flops = Cost.of(cost_share.backward(large(), way)).flops
    assert flops == 48 * C**2 * PIXELS == fewest_of_share(C, PIXELS, 2, "backward")[0]


@pytest.mark.parametrize(
    ("way", "elements", "with_gates", "launches"),
    [("resident", 4, 6, 1), ("unit", 4, 6, 1), ("products", 14, 4, 2), ("cuda", 30, 6, 5)],
)
def test_forward_traffic_is_that_of_the_readme(
    way: str, elements: int, with_gates: int, launches: int
) -> None:
    for gates in (False, True):
        cost = Cost.of(cost_share.forward(large(gates=gates), way))
        per_pixel = cost.bytes / (2 * C * PIXELS)
        assert per_pixel == pytest.approx(elements + gates * with_gates, rel=0.01)
        assert cost.launches == launches


@pytest.mark.parametrize(
    ("way", "elements", "launches"), [("pair", 26, 3), ("fused", 30, 3), ("products", 48, 5), ("cuda", 64, 9)]
)
def test_backward_traffic_is_that_of_the_readme(way: str, elements: int, launches: int) -> None:
    cost = Cost.of(cost_share.backward(large(), way))
    assert cost.bytes / (2 * C * PIXELS) == pytest.approx(elements, rel=0.01)
    assert cost.launches == launches


def test_gates_that_are_made_again_on_chip_cost_products_and_spare_bytes() -> None:
    cost = Cost.of(cost_share.backward(large(gates=False), "pair"))
    flops, least = fewest_of_share(C, PIXELS, 2, "backward", recompute=True)
    assert cost.flops == 100 * C**2 * PIXELS >= flops
    assert cost.bytes / (2 * C * PIXELS) == pytest.approx(10, rel=0.01)
    assert cost.bytes >= least


def test_the_library_makes_gates_again_without_the_forwards_last_kernel() -> None:
    forward, kept, again = (
        Cost.of(kernels)
        for kernels in (
            cost_share.forward(large(gates=False), "cuda"),
            *(cost_share.backward(large(gates=gates), "cuda") for gates in (True, False)),
        )
    )
    assert again.flops == forward.flops + kept.flops
    assert again.launches == kept.launches + 3  # gates, r . source, candidates
    assert again.bytes / (2 * C * PIXELS) == pytest.approx(80, rel=0.01)


def test_the_library_sums_gradients_in_float32_a_unit_at_a_time() -> None:
    cost = Cost.of(cost_share.backward(ShareCall(C, C, PIXELS, 4), "cuda"))
    assert cost.bytes / (4 * C * PIXELS) == pytest.approx(68, rel=0.01)
    assert cost.launches == 10 and cost.flops == 48 * C**2 * PIXELS


def test_nothing_is_below_what_no_kernel_can_avoid() -> None:
    for way in FORWARD_WAYS:
        cost = Cost.of(cost_share.forward(large(gates=False), way))
        flops, least = fewest_of_share(C, PIXELS, 2, "forward")
        assert cost.bytes >= least and cost.flops >= flops
    for way in BACKWARD_WAYS:
        cost = Cost.of(cost_share.backward(large(), way))
        flops, least = fewest_of_share(C, PIXELS, 2, "backward")
        assert cost.bytes >= least and cost.flops >= flops


def test_the_library_copies_what_is_not_channels_last() -> None:
    last, planes = (
        Cost.of(cost_share.forward(large(gates=False, channels_last=flag), "cuda")) for flag in (True, False)
    )
    assert planes.launches - last.launches == 4  # x, y and their results
    assert planes.bytes - last.bytes == 4 * C * PIXELS * 2  # x and y go where they are gathered otherwise
    for way in ("resident", "unit", "products"):
        assert cost_share.forward(large(), way) == cost_share.forward(large(channels_last=False), way)


def test_weights_gradients_are_cut_into_so_many_parts() -> None:
    call = ShareCall(64, 64, 147456, 2)
    pair = {"kernel": "pair", "pixels": 64, "programs": 2, "weight_pixels": 32, "weight_programs": 1}
    products = {"kernel": "products", "block": 64, "pixels": 64, "programs": 2}
    assert cost_share.chunks(call, pair, 132) == 66  # of two units, a program each
    assert cost_share.chunks(call, products, 132) == 22  # of twelve products, 264 programs in all
    for row in (pair, products):
        assert cost_share.chunks(ShareCall(64, 64, 16, 2), row, 132) == 1


def test_the_kernels_of_few_channels_are_bound_by_bytes() -> None:
    """So says the assembler's output of how many instructions they take."""
    h100 = CEILINGS["H100"]
    few, more = ShareCall(64, 64, 147456, 2, chunks=66), ShareCall(128, 128, 36864, 2, chunks=22)
    kernels = [
        *(cost_share.forward(few, "resident")), *cost_share.backward(few, "pair"),
        *cost_share.forward(more, "unit"), *cost_share.backward(more, "fused"),
    ]  # fmt: skip
    assert {kernel.name for kernel in kernels if kernel.instructions} == set(cost_share.INSTRUCTIONS)
    for kernel in kernels:
        without = dataclasses.replace(kernel, instructions=0)
        assert h100.seconds([kernel], "half") == h100.seconds([without], "half"), kernel.name


# --- norm_act -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", cost_norm.BACKENDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_norms_that_are_split_move_the_fewest_bytes_and_rows_on_chip_fewer(
    backend: str, channels_last: bool
) -> None:
    split = NormCall(64, 64, 96 * 96, 2, channels_last=channels_last)
    chip = NormCall(64, 256, 12 * 12, 2, groups=256, channels_last=channels_last)
    for mode, function in (("forward", cost_norm.forward), ("backward", cost_norm.backward)):
        cost = Cost.of(function(split, backend, H100, LIMITS[mode]))
        assert cost.bytes == pytest.approx(fewest_of_norm(split.elements, 2, mode), rel=0.02)
        assert cost.launches == 3
        cost = Cost.of(function(chip, backend, H100, LIMITS[mode]))
        once = {"forward": 2, "backward": 3}[mode]
        assert cost.bytes == pytest.approx(once * 2 * chip.elements, rel=0.05)
        assert cost.launches == (1 if mode == "forward" else 2)  # gamma and beta over the samples


def test_given_statistics_take_one_launch_and_two_passes() -> None:
    call = NormCall(8, 64, 96 * 96, 2, given=True)
    cost = Cost.of(cost_norm.forward(call, "triton", H100, LIMITS["forward"]))
    assert cost.launches == 1
    assert cost.bytes == pytest.approx(fewest_of_norm(call.elements, 2, "forward", running=True), rel=0.01)


def test_a_residual_costs_what_the_benchmarks_bound_says() -> None:
    call = NormCall(64, 64, 96 * 96, 2, residual=True)
    for mode, function in (("forward", cost_norm.forward), ("backward", cost_norm.backward)):
        cost = Cost.of(function(call, "triton", H100, LIMITS[mode]))
        assert cost.bytes == pytest.approx(fewest_of_norm(call.elements, 2, mode, residual=True), rel=0.02)


# --- predictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", CEILINGS)
def test_predictions_grow_with_every_size(card: str) -> None:
    ceilings = CEILINGS[card]
    for way in FORWARD_WAYS:
        base = ShareCall(64, 64, 4096, 2)
        for larger in ({"pixels": 8192}, {"cx": 128}, {"cy": 128}, {"itemsize": 4}):
            one, more = (
                ceilings.seconds(cost_share.forward(call, way), "half")
                for call in (base, dataclasses.replace(base, **larger))
            )
            assert one < more, (way, larger)
    base_norm = NormCall(8, 64, 2304, 2)
    for larger in ({"samples": 16}, {"channels": 128}, {"plane": 9216}, {"itemsize": 4}):
        one, more = (
            ceilings.seconds(cost_norm.forward(call, "triton", H100, LIMITS["forward"]), "half")
            for call in (base_norm, dataclasses.replace(base_norm, **larger))
        )
        assert one < more, larger


def test_a_prediction_is_the_larger_of_both_ceilings_and_the_launches() -> None:
    h100 = CEILINGS["H100"]
    nothing, moving, both = Kernel("", 0), Kernel("", 3_015_000_000), Kernel("", 3_015_000_000, 10**9)
    assert h100.seconds([nothing] * 3, "half") == pytest.approx(6e-6)
    assert h100.seconds([moving], "half") == pytest.approx(1e-3 + 2e-6)
    assert h100.seconds([both], "half") == h100.seconds([moving], "half")
    product = Kernel("", 0, 10**12, library=True)
    assert h100.seconds([product], "half") == pytest.approx(1 / (0.8 * 989) + 2e-6)
    assert h100.seconds([product], "half") < h100.seconds([product], "tf32") < h100.seconds([product], "ieee")
    assert h100.roofline(10**12, 0, "half") == pytest.approx(1 / (0.8 * 989))


@pytest.mark.parametrize(
    ("name", "capability", "taken_as"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "H100"),
        ("NVIDIA H200", (9, 0), "H200"),
        ("NVIDIA GH200 480GB", (9, 0), "H200"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), "A100"),
        ("NVIDIA GeForce RTX 4090", (8, 9), "A100"),
        ("NVIDIA B200", (10, 0), "B200"),
        ("NVIDIA GeForce RTX 5090", (12, 0), "B200"),
        ("NVIDIA T4", (7, 5), "A100"),
    ],
)
def test_a_card_has_the_ceilings_of_its_name_or_generation(
    name: str, capability: tuple[int, int], taken_as: str
) -> None:
    assert ceilings_of(Card(name, capability, 1, 0)).name == taken_as
