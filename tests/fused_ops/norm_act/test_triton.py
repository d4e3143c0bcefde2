"""The Triton kernels of norm_act in the interpreter (triton_interpreted.py); whom the backend refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fused_ops
from fused_ops import backends, explain, triton_support, use
from fused_ops.norm_act import op
from tests.fused_ops.interpreter import needs_triton, pass_in_interpreter


@needs_triton
def test_in_the_interpreter() -> None:
    pass_in_interpreter(Path(__file__).with_name("triton_interpreted.py"))


def test_cpu_tensors_are_refused_with_a_reason() -> None:
    x = torch.randn(2, 4, 3, 3)
    with use("triton"), pytest.raises(RuntimeError, match=r"tensors are on cpu|triton is not installed"):
        fused_ops.group_norm_act(x, 2)
    assert "triton" in explain(fused_ops.group_norm_act, x, 2)[0].reasons


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_support._why_no_triton.cache_clear()
    monkeypatch.setattr(triton_support.importlib.util, "find_spec", lambda name: None)
    try:
        with use("triton"), pytest.raises(RuntimeError, match="the package triton is not installed"):
            fused_ops.group_norm_act(torch.randn(2, 4, 3, 3), 2)
    finally:
        triton_support._why_no_triton.cache_clear()


def test_more_pixels_or_planes_than_are_counted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "why_not", lambda *tensors: None)
    most, longest_chunk = 2**31 - 1, 2**16
    for count, refused in ((most - longest_chunk + 1, False), (most - longest_chunk // 2, True)):
        pixels, planes = (torch.empty(shape, device="meta") for shape in ((1, 1, count), (count, 1, 1)))
        planes = planes.expand(-1, 2, -1)[: count // 2]
        assert (op.triton_refuses(pixels, None, None, 0) is not None) == refused
        assert (op.triton_refuses(planes, None, None, 2) is not None) == refused
        assert op.triton_refuses(planes, None, None, 0) is None  # statistics of a batch have no planes


def test_the_pixels_that_an_unpooling_writes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are four times those of the gradient that comes."""
    monkeypatch.setattr(triton_support, "why_not", lambda *tensors: None)
    refuses = backends._implementations["norm_act_pool_backward"]["triton"].refuses
    for side, refused in ((2**13, False), (2**14, True)):
        grad = torch.empty((2, 1, side, side), device="meta")
        reason = refuses(grad, None, grad, 2 * side, 2 * side, 0, 0.0)
        assert (reason == "it counts the pixels and the planes of a tensor in 31 bits") == refused


def test_an_old_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    card = triton_support.Card("NVIDIA V100", (7, 0), 80, 98_304)
    monkeypatch.setattr(triton_support, "card_of", lambda device: card)
    monkeypatch.setattr(triton_support, "_why_no_triton", lambda: None)

    class OnCard:
        device = torch.device("cuda", 0)

    assert triton_support.why_not(OnCard()) == (  # type: ignore[arg-type]
        "it serves cards of compute capability 8.0 and later, this is sm_70"
    )
