"""selective_share's Triton kernels in the interpreter (triton_interpreted.py); what is said without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fused_ops
from fused_ops import explain, tuning, use
from fused_ops.selective_share.triton_plan import Call
from fused_ops.triton_support import CARDS, rehearse
from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter
from tests.fused_ops.selective_share.test_op import pair


@needs_triton
@pytest.mark.slow
def test_in_the_interpreter() -> None:
    pass_in_interpreter(Path(__file__).with_name("triton_interpreted.py"))


def test_cpu_tensors_are_refused_with_a_reason() -> None:
    x, y, *weights = pair(4, 3, 2, 5, 5)
    with use("triton"), pytest.raises(RuntimeError, match=r"tensors are on cpu|triton is not installed"):
        fused_ops.selective_share(x, y, weights[:4], weights[4:])
    decision = explain(fused_ops.selective_share, x, y, weights[:4], weights[4:])[0]
    assert "triton" in decision.reasons


def test_larger_kernels_are_refused_first() -> None:
    """Whatever else is missing: that no backend but the reference has them is what helps the caller."""
    x, y = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    weights = [torch.randn(2, c, 3, 3) for c in (4, 2, 2, 4)]
    with use("triton"), pytest.raises(RuntimeError, match="only 1x1 kernels, these are 3x3"):
        fused_ops.conv_flu(x, y, weights)


@pytest.mark.parametrize(
    ("channels", "x_of", "grads_of", "pair", "alike", "sliced"),
    [
        ((32, 32), 32, (32, 32), True, {"forward", "backward", "weights"}, set()),
        ((32, 48), 32, (32, 48), True, set(), set()),
        ((32, 32), 64, (32, 32), True, set(), {"forward", "backward", "weights"}),
        ((32, 32), 32, (64, 32), True, {"forward"}, {"backward", "weights"}),
        ((32, 48), 32, (32, 48), False, {"forward", "weights"}, set()),
        ((32, 48), 64, (32, 48), False, {"forward", "weights"}, {"forward", "backward", "weights"}),
    ],
)
def test_the_launch_tables_are_told_where_one_stretch_of_code_serves_and_of_slices(
    channels: tuple[int, int],
    x_of: int,
    grads_of: tuple[int, int],
    pair: bool,
    alike: set[str],
    sliced: set[str],
) -> None:
    """Where one does not serve, a kernel has more, and each takes shared memory; slices take registers."""
    x = torch.empty(2, x_of, 4, 4, device="meta")[:, : channels[0]]
    y = torch.empty(2, channels[1], 4, 4, device="meta")
    call, *_ = Call.of(x, y, pair, False, torch.contiguous_format)
    with tuning.asked() as rows:
        call.choose("forward", gates=1)
        for family in ("backward", "weights"):
            call.choose(family, *grads_of, outside=0, gates=1)
    for fact, families in (("alike", alike), ("sliced", sliced)):
        assert {family.split(".")[1] for family, facts, _ in rows if facts[fact]} == families


@pytest.mark.parametrize(
    ("channels", "images", "expected"),
    [
        ((256, 256), 4, 0),  # 20 tiles of 128 pixels x 128 channels, a card of 132 processors
        ((256, 256), 16, 1),  # 72
        ((256, 512), 16, 1),  # 108
        ((512, 512), 16, 2),  # 144
        ((130, 20), 16, 1),  # 54: parts of tiles count
        ((128, 128), 1, 1),
        ((64, 64), 1000, 1),
    ],
)
def test_the_launch_tables_are_told_how_much_of_the_card_is_filled(
    channels: tuple[int, int], images: int, expected: int
) -> None:
    x, y = (torch.empty(images, c, 12, 12, device="meta") for c in channels)
    call, *_ = Call.of(x, y, True, False, torch.contiguous_format)
    with tuning.asked() as rows:
        call.choose("forward", gates=1)
    assert [facts["filled"] for _, facts, _ in rows] == [expected]


@needs_triton
def test_tiles_of_products_are_no_wider_than_channels_fill_them() -> None:
    from fused_ops.selective_share import triton_launch

    for channels, columns in ((512, 256), (384, 128), (320, 64)):
        x, y = (torch.empty(64, channels, 12, 12, dtype=torch.bfloat16, device="meta") for _ in range(2))
        weights = [torch.empty(channels, c, 1, 1, device="meta") for c in (2 * channels, channels)]
        r_or_z, w_or_u = weights
        unit = [r_or_z, w_or_u, w_or_u, r_or_z]
        with rehearse(CARDS["sm_90"]) as launches:
            triton_launch.forward(x, y, [*unit, *unit], False, None, (x, y), torch.contiguous_format)
        assert [launch.constants["BLOCK_N"] for launch in launches] == [columns, columns]


@needs_triton
def test_gradients_that_are_slices_are_told_to_the_launch_tables() -> None:
    from fused_ops.selective_share import triton_launch

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    x, y = empty(2, 32, 4, 4), empty(2, 32, 4, 4)
    weights = [empty(32, inputs, 1, 1) for inputs in (64, 32, 32, 64)] * 2
    grads = [torch.empty_like(tensor) for tensor in (x, y, *weights)]
    for grad_of, alike in ((32, 1), (64, 0)):
        of_x, of_y = empty(2, grad_of, 4, 4)[:, :32], empty(2, 32, 4, 4)
        with rehearse(CARDS["sm_80"]), tuning.asked() as rows:
            triton_launch.backward(
                of_x, of_y, None, x, y, empty(2, 192, 4, 4), weights, False, grads, torch.contiguous_format
            )
        assert [facts["alike"] for _, facts, _ in rows] == [alike, alike]
