"""Which GPU backend goes first: predicted, or measured; from arguments of every op; reasons in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fused_ops import backends, explain, triton_support, tuning
from fused_ops.activations import ACTIVATIONS
from fused_ops.triton_support import CARDS
from fused_ops.tuning import cost_norm, dispatch
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import ShareCall

H100 = CARDS["sm_90"]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Tables that can be written to: copies of the shipped ones."""
    for path in tuning.FOLDER.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.forget_tables()
    dispatch.forget_choices()
    yield tmp_path
    tuning.forget_tables()
    dispatch.forget_choices()


def add_row(folder: Path, family: str, row: dict[str, Any]) -> None:
    path = folder / "sm_90.json"
    content = json.loads(path.read_text())
    content[family] = [row, *content.get(family, [])]
    path.write_text(json.dumps(content))
    tuning.forget_tables()
    dispatch.forget_choices()


@pytest.mark.parametrize(
    ("channels", "side", "itemsize", "precision", "backward", "first"),
    [
        (64, 48, 2, "half", False, "triton"),  # few bytes decide
        (128, 24, 2, "half", True, "triton"),
        (512, 6, 4, "ieee", False, "cuda"),  # float32 without TF32: the library's rate decides
        (512, 6, 4, "ieee", True, "cuda"),
        (4096, 16, 2, "half", False, "cuda"),  # so many channels that FLOPs alone count
    ],
)
def test_the_cost_model_decides_for_pairs(
    channels: int, side: int, itemsize: int, precision: str, backward: bool, first: str
) -> None:
    call = ShareCall(channels, channels, 64 * side**2, itemsize)
    choice = dispatch.choose_for_share(H100, call, precision, backward)
    assert choice.order[0] == first and set(choice.order) == set(dispatch.BACKENDS)
    assert choice.reason.startswith("the cost model predicts on H100: ")
    assert all(f"{name!r}" in choice.reason for name in dispatch.BACKENDS)


@pytest.mark.parametrize("architecture", CARDS)
@pytest.mark.parametrize(("cx", "cy"), [(128, 128), (64, 128), (256, 512)])
def test_every_card_has_rows_for_pairs_that_look_alike_and_others(
    cx: int, cy: int, architecture: str
) -> None:
    for itemsize, precision in ((2, "half"), (4, "ieee")):
        call = ShareCall(cx, cy, 64 * 24**2, itemsize)
        for backward in (False, True):
            assert all(dispatch.share_kernels(CARDS[architecture], call, precision, backward).values())


def test_a_backward_that_recomputes_pays_for_the_forward() -> None:
    call = ShareCall(64, 64, 147456, 2)
    kept, again = (dispatch.share_kernels(H100, call, "half", True, recompute) for recompute in (False, True))
    forward = dispatch.share_kernels(H100, call, "half", False)
    assert again["triton"] == [*forward["triton"], *kept["triton"]]
    flops = (sum(kernel.flops for kernel in kernels["cuda"]) for kernels in (forward, kept, again))
    assert next(flops) + next(flops) == next(flops)


def test_a_backward_that_recomputes_on_chip_pays_for_no_forward() -> None:
    call = ShareCall(16, 16, 147456, 2)
    kept, again = (dispatch.share_kernels(H100, call, "half", True, recompute) for recompute in (False, True))
    assert [kernel.name for kernel in again["triton"]] == [
        "input_gradients_pair", "weight_gradients_unit", "add_weight_parts",
    ]  # fmt: skip
    assert sum(kernel.bytes for kernel in again["triton"]) < sum(kernel.bytes for kernel in kept["triton"])
    outside = ShareCall(16, 16, 147456, 2, outside=True)
    names = [kernel.name for kernel in dispatch.share_kernels(H100, outside, "half", True, True)["triton"]]
    assert names[:2] == ["forward_resident", "input_gradients_pair"]


def test_where_only_one_holds_a_row_on_chip_it_goes_first() -> None:
    for plane, itemsize in ((8192 - 64, 4), (12_000, 2)):
        both = NormCall(64, 64, plane, itemsize, groups=64, channels_last=False)
        kernels = dispatch.norm_kernels(H100, both, True)
        single = {backend: len(launches) <= 2 for backend, launches in kernels.items()}
        assert single == {"triton": True, "cuda": True}
    # Groups of 5 channels: Triton's tiles have room for 8.
    one = NormCall(64, 60, 1500, 4, groups=12, channels_last=False)
    kernels = dispatch.norm_kernels(H100, one, True)
    assert (len(kernels["cuda"]), len(kernels["triton"])) == (2, 4)
    assert dispatch.choose_for_norm(H100, one, True).order == ("cuda", "triton")


def test_of_norms_that_are_as_good_as_equal_the_cheaper_one_for_the_host_goes_first() -> None:
    choice = dispatch.choose_for_norm(H100, NormCall(8, 64, 96 * 96, 2, given=True), False)
    assert choice.order == choice.asked(compiled=False) == ("cuda", "triton")
    assert choice.asked(compiled=True) == ("triton", "cuda")  # in a graph the host's time is none
    assert choice.reason.endswith("; as good as equal, and 'cuda' costs the host less")


@pytest.mark.parametrize("last", [False, True])
def test_slices_are_not_copied_for_it(last: bool) -> None:
    room = torch.empty(8, 128, 24, 24, dtype=torch.bfloat16)
    room = room.contiguous(memory_format=torch.channels_last) if last else room
    others = (None,) * 7
    for x, first in ((room, "cuda"), (room[:, :64], "triton"), (room[:, :, 1:], "triton")):
        choice = dispatch.choose("norm_act", (x, *others, 0, 1e-5, ACTIVATIONS["relu"].index, 0.0, False))
        assert choice is not None and choice.order[0] == first


def test_near_ones_are_told_from_others() -> None:
    for ratio, norm, first in ((1.09, True, "cuda"), (1.11, True, "triton"), (1.09, False, "triton")):
        assert dispatch.in_order({"triton": 1.0, "cuda": ratio}, norm)[0] == first
    assert dispatch.in_order({"triton": 1.0, "cuda": 1.0}, norm=False) == ("triton", "cuda")
    assert dispatch.in_order({"triton": 1.0}, norm=True) == ("triton",)


def test_what_was_measured_goes_before_what_is_predicted(measured: Path) -> None:
    call = ShareCall(64, 64, 64 * 48**2, 2)
    facts = dispatch.share_facts(H100, call, "half", False)
    note = "measured: 'cuda' 20 us, 'triton' 30 us"
    add_row(measured, "selective_share.backend", {"when": facts, "launch": {"backend": "cuda"}, "note": note})
    choice = dispatch.choose_for_share(H100, call, "half", False)
    assert choice.order == ("cuda", "triton")
    assert choice.reason == f"selective_share.backend: row 1 of sm_90.json ({note})"
    # another pass, one that keeps no gates, or another card of the architecture has not been measured
    assert dispatch.choose_for_share(H100, call, "half", True).order[0] == "triton"
    without = ShareCall(64, 64, 64 * 48**2, 2, gates=False)
    assert "predicts" in dispatch.choose_for_share(H100, without, "half", False).reason
    other = triton_support.Card("NVIDIA H200", (9, 0), 132, 232_448)
    assert "predicts on H200" in dispatch.choose_for_share(other, call, "half", False).reason

    facts = dispatch.share_facts(H100, call, "half", True)
    add_row(measured, "selective_share.backend", {"when": facts, "launch": {"backend": "cuda"}, "note": note})
    assert dispatch.choose_for_share(H100, call, "half", True).order[0] == "cuda"
    assert "predicts" in dispatch.choose_for_share(H100, call, "half", True, recompute=True).reason

    norm = NormCall(8, 64, 96 * 96, 2)
    assert dispatch.choose_for_norm(H100, norm, True).order[0] == "cuda"
    facts = dispatch.norm_facts(H100, norm, True)
    add_row(measured, "norm_act.backend", {"when": facts, "launch": {"backend": "triton"}, "note": note})
    assert dispatch.choose_for_norm(H100, norm, True).order[0] == "triton"


# --- from the arguments of the ops --------------------------------------------------------------------------


def features(channels: int, dtype: torch.dtype = torch.bfloat16, last: bool = True) -> Tensor:
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty((8, channels, 24, 24), dtype=dtype, device="meta", memory_format=layout)


def test_pairs_are_read_from_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(dispatch, "choose_for_share", lambda *args: seen.append(args))
    dispatch.forget_choices()
    x, y, weights = features(64), features(128), [torch.empty(1, 1, 1, 1)] * 8
    dispatch.choose("selective_share", (x, y, *weights, False, True, True))
    assert seen.pop() == (H100, ShareCall(64, 128, 4608, 2, True, True, False), "half", False, False)
    dispatch.choose("selective_share", (x, y, *weights, False, False, False))
    assert not seen[-1][1].gates
    dispatch.choose("selective_share_backward", (x, y, x, features(64, last=False), y, None, *weights, False))
    call = ShareCall(64, 128, 4608, 2, False, True, True)
    assert seen[-1] == (H100, call, "half", True, True)
    single = features(64, torch.float32)
    dispatch.choose("selective_share_backward", (single, single, None, single, single, y, *weights, False))
    assert seen[-1][2:] == ("ieee", True, False)


def test_norms_are_read_from_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(dispatch, "choose_for_norm", lambda *args: seen.append(args))
    dispatch.forget_choices()
    x, silu = features(64), ACTIVATIONS["silu"].index
    constants = (64, 1e-5, silu, 0.0)
    dispatch.choose("norm_act", (x, None, None, x, None, None, None, None, *constants))
    call = NormCall(8, 64, 576, 2, 64, False, True, True, False, "input")
    assert seen.pop() == (H100, call, False)
    backward = (x, x, None, None, None, x, None, None, x, x, False, *constants, *[True] * 5)
    dispatch.choose("norm_act_backward", backward)
    assert seen.pop() == (H100, call, True)


def test_the_backward_of_pooling_alone_has_a_cost() -> None:
    relu, winner = ACTIVATIONS["relu"].index, features(64).to(torch.uint8)
    choice = dispatch.choose(
        "norm_act_pool_backward", (features(64), features(64), winner, 48, 49, relu, 0.0)
    )
    pooled, full = 8 * 64 * 24 * 24, 8 * 64 * 48 * 49
    call = NormCall(8, 64, 48 * 49, 2, given=True, pooled=True)
    assert cost_norm.unpool(call).bytes == 2 * full + full // 4 * (2 * 2 + 1) >= 2 * full + 5 * pooled
    assert choice is not None and choice.by_card == ("triton", "cuda")  # as many bytes, in the usual order
    assert choice.reason.startswith("the cost model predicts on H100: ")


def test_there_is_no_choice_for_other_ops_and_without_elements() -> None:
    empty = torch.empty(0, 4, 3, 3)
    assert dispatch.choose("something", (features(4),)) is None
    assert (
        dispatch.choose(
            "selective_share", (empty, empty, *[torch.empty(1, 1, 1, 1)] * 8, False, False, False)
        )
        is None
    )


class OnCard:
    """Stands for a tensor on a card."""

    device, is_cuda = torch.device("cuda", 0), True


@pytest.mark.parametrize("refused", [False, True])
def test_the_choice_orders_the_backends_and_explain_gives_the_reason(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ("cuda", "triton")
    choice = dispatch.Choice(order, "measured: 'cuda' 1 us, 'triton' 2 us", order)
    monkeypatch.setattr(dispatch, "choose", lambda op, args: choice)
    monkeypatch.setattr(backends, "_implementations", {})
    backends.register("toy", "triton", lambda x: "by triton")
    backends.register("toy", "cuda", lambda x: "by cuda", lambda x: "no library" if refused else None)
    assert backends.compute("toy", OnCard()) == ("by triton" if refused else "by cuda")
    (decision,) = explain(lambda: backends.compute("toy", OnCard()))
    text = str(decision)
    assert f"served by {'triton' if refused else 'cuda'!r}" in text
    assert "since measured: 'cuda' 1 us, 'triton' 2 us" in text
    assert ("not 'cuda': no library" if refused else "not 'triton': it could, but 'cuda' goes first") in text
    if refused:
        message = r"fused_ops.toy: the backend 'cuda' was asked for and cannot serve this call: no library$"
        with backends.use("cuda"), pytest.raises(RuntimeError, match=message):
            backends.compute("toy", OnCard())


def test_what_serves_a_call_is_kept_by_its_facts_and_by_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def refuses(x: OnCard, facts: str) -> str | None:
        asked.append(facts)
        return "not so large" if facts == "large" else None

    monkeypatch.setattr(dispatch, "choose", lambda op, args: None)
    monkeypatch.setattr(dispatch, "kept", {})
    monkeypatch.setattr(backends, "facts_of", lambda op, args: args[1])
    monkeypatch.setattr(backends, "MOST_KEPT", 3)
    monkeypatch.setattr(backends, "_implementations", {})
    for op in ("toy", "other"):
        backends.register(op, "triton", lambda x, facts: "triton", refuses)
        backends.register(op, "cuda", lambda x, facts: "cuda")
    for _ in range(2):
        assert backends.compute("toy", OnCard(), "small") == "triton"
        assert backends.compute("toy", OnCard(), "large") == "cuda"
    assert asked == ["small", "large"]
    with backends.use("cuda"):
        assert backends.compute("toy", OnCard(), "small") == "cuda"
    assert backends.compute("other", OnCard(), "small") == "triton"  # one too many: none is kept any more
    assert backends.compute("toy", OnCard(), "large") == "cuda" and asked[2:] == ["small", "large"]
    dispatch.forget_choices()
    assert backends.compute("toy", OnCard(), "large") == "cuda" and asked[4:] == ["large"]
