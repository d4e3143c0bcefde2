"""Whom the Triton backends refuse, in one line that says what is needed and what is here."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from fused_ops import backends, explain, triton_support
from fused_ops.triton_support import CARDS, Card

CUDA = torch.device("cuda", 0)


@dataclass
class OnCard:
    """Stands for a tensor on a card."""

    dtype: torch.dtype = torch.float32
    elements: int = 1
    device: torch.device = CUDA
    is_cuda: bool = True

    def numel(self) -> int:
        return self.elements


TURING = Card("NVIDIA T4", (7, 5), 40, 65_536)
TIGHT = Card("a card of little shared memory", (8, 0), 40, 65_536)


@pytest.mark.parametrize(
    ("card", "tensor", "reason"),
    [
        (TURING, OnCard(), "it serves cards of compute capability 8.0 and later, this is sm_75"),
        (TIGHT, OnCard(), "its tiles need 99 KiB of shared memory, this card has 64 KiB for a program"),
        (CARDS["sm_90"], OnCard(torch.float64), "it has no kernel for torch.float64"),
        (CARDS["sm_90"], OnCard(elements=0), "the tensors are empty"),
    ],
    ids=["older card", "little shared memory", "dtype", "empty"],
)
def test_a_wish_that_cannot_be_met_raises_one_line_and_auto_goes_on(
    card: Card, tensor: OnCard, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "card_of", lambda device: card)
    monkeypatch.setattr(triton_support, "_why_no_triton", lambda: None)
    monkeypatch.setattr(backends, "_implementations", {})
    backends.register("toy", "triton", lambda x: "triton", triton_support.why_not)
    backends.register("toy", "reference", lambda x: "reference")
    with backends.use("triton"), pytest.raises(RuntimeError) as caught:
        backends.compute("toy", tensor)
    assert str(caught.value) == (
        f"fused_ops.toy: the backend 'triton' was asked for and cannot serve this call: {reason}"
    )
    (decision,) = explain(lambda: backends.compute("toy", tensor))
    assert decision.backend == "reference" and decision.reasons["triton"] == reason


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_cards_it_is_compiled_for_are_served(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "card_of", lambda device: card)
    monkeypatch.setattr(triton_support, "_why_no_triton", lambda: None)
    assert triton_support.why_not(OnCard()) is None  # type: ignore[arg-type]


def test_without_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    triton_support._why_no_triton.cache_clear()
    assert triton_support.why_not(OnCard()) == "the package triton is not installed"  # type: ignore[arg-type]
    triton_support._why_no_triton.cache_clear()
