"""Which GPU backend goes first for a call, and why: as measured, else as the cost model predicts.

What ``python -m fused_ops tune`` measured stands in the card's own table, families
``selective_share.backend`` and ``norm_act.backend``. Where no row of it fits, the backend with the shorter
predicted time goes first. Norms that both compute in nearly the same time go to the library, which costs the
host less.
Nothing is tried out; the same call gets the same answer, which is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fused_ops import tuning
from fused_ops.triton_support import Card, card_for
from fused_ops.tuning import cost_norm, cost_share
from fused_ops.tuning.cost_model import Kernel, Precision, ceilings_of
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import ShareCall
from fused_ops.tuning.facts import Facts, NormFacts, ShareFacts, UnpoolFacts, facts_of

BACKENDS = ("triton", "cuda")
PASSES = ("forward", "backward")


# A norm takes up to four launches, which the library makes in one call; Triton's cost the host a third more,
# and the host may be what a step of many norms waits for. The predictions are no better than this ratio.
NEAR = 1.1


@dataclass(frozen=True)
class Choice:
    """The GPU backends in the order in which they are asked, and the reason in a sentence.

    ``by_card`` is the order by the card's time alone, for graphs of torch.compile, which spare the host.
    """

    order: tuple[str, ...]
    reason: str
    by_card: tuple[str, ...]

    def asked(self, compiled: bool) -> tuple[str, ...]:
        return self.by_card if compiled else self.order


def in_order(seconds: Mapping[str, float], norm: bool) -> tuple[str, ...]:
    """The backends that have a time, the first to be asked first."""
    by_card = tuple(sorted((name for name in BACKENDS if name in seconds), key=lambda name: seconds[name]))
    if norm and "cuda" in seconds and seconds["cuda"] <= NEAR * seconds[by_card[0]]:
        return ("cuda", *(name for name in by_card if name != "cuda"))
    return by_card


def choose(op: str, args: tuple[Any, ...]) -> Choice | None:
    """The choice for a call of an op on CUDA tensors; None for an op without a cost model, or no elements."""
    facts = facts_of(op, args)
    return None if facts is None or not facts.shape.numel() else _choice(_card(facts), op, facts)


def measured_row(op: str, args: tuple[Any, ...]) -> tuple[str, dict[str, int | str]]:
    """The family and the facts of the row that a measured choice for a call would stand in."""
    facts = facts_of(op, args)
    if isinstance(facts, ShareFacts):
        return "selective_share.backend", share_facts(_card(facts), *share_asked(op, facts))
    card, call = norm_call(op, args)
    return "norm_act.backend", norm_facts(card, call, is_backward(op))


def norm_call(op: str, args: tuple[Any, ...]) -> tuple[Card, NormCall]:
    """The card and the call that the cost of a norm depends on."""
    facts = facts_of(op, args)
    if isinstance(facts, UnpoolFacts):
        return _card(facts), facts.call()
    if isinstance(facts, NormFacts):
        return _card(facts), facts.call(pooled=op == "norm_act_pool")
    raise ValueError(f"{op!r} is no norm")


def is_backward(op: str) -> bool:
    return op.endswith("_backward")


def share_asked(op: str, facts: ShareFacts) -> tuple[ShareCall, Precision, bool, bool]:
    """What :func:`choose_for_share` is asked of a pair besides the card."""
    backward = is_backward(op)
    return facts.call(backward), facts.precision, backward, backward and not facts.gates


def _card(facts: Facts) -> Card:
    return card_for(facts.device)


# --- what a call costs each backend -------------------------------------------------------------------------


def share_kernels(
    card: Card, call: ShareCall, precision: Precision, backward: bool, recompute: bool = False
) -> dict[str, list[Kernel]]:
    """The launches of a pair by each backend; ``recompute``: the backward makes the gates again."""
    from fused_ops.selective_share.triton_plan import filled, is_even

    channels = (call.cx, call.cy)
    facts: dict[str, int | str] = {
        "channels": max(call.cx, call.cy), "itemsize": call.itemsize,
        "precision": "ieee" if precision == "ieee" else "tf32", "even": is_even(channels),
        "alike": int(call.cx == call.cy), "sliced": 0, "aligned": 1,
        "filled": filled(channels, call.pixels, card.processors),
    }  # fmt: skip

    def row(family: str, **more: int) -> Any:
        return tuning.choose_row(card.architecture, f"selective_share.{family}", **facts, **more).launch

    def forward() -> dict[str, list[Kernel]]:
        ways = {"triton": row("forward", gates=int(call.gates))["kernel"], "cuda": "cuda"}
        return {backend: cost_share.forward(call, way) for backend, way in ways.items()}

    if not backward:
        return forward()

    def by_triton(gates: bool) -> list[Kernel]:
        """Gates that were not kept are made again on chip, or by the forward."""
        choice = row("backward", outside=int(call.outside), gates=int(gates))
        way = choice["kernel"]
        if way != "pair":
            if not gates:
                return [*forward()["triton"], *by_triton(True)]
            choice = row("weights", outside=int(call.outside), gates=1)
        parts = cost_share.chunks(call, choice, card.processors)
        return cost_share.backward(replace(call, gates=gates, chunks=parts), way)

    by_library = cost_share.backward(replace(call, gates=not recompute), "cuda")
    return {"triton": by_triton(not recompute), "cuda": by_library}


def norm_kernels(card: Card, call: NormCall, backward: bool) -> dict[str, list[Kernel]]:
    """The launches of a norm by each backend."""
    family = f"norm_act.{'backward' if backward else 'forward'}"
    limits = tuning.choose_row(card.architecture, family, itemsize=call.itemsize).launch
    function = cost_norm.backward if backward else cost_norm.forward
    found = {backend: function(call, backend, card, limits) for backend in BACKENDS}
    if call.sliced:
        found["cuda"].insert(0, call.kernel("copy", 2))
    return found


# --- the choice ---------------------------------------------------------------------------------------------

kept: dict[Hashable, tuple[str, str, str]] = {}
"""What :mod:`fused_ops.backends` made of choices and refusals, by the facts of calls."""


@functools.lru_cache(maxsize=4096)
def _choice(card: Card, op: str, facts: Facts) -> Choice:
    if isinstance(facts, ShareFacts):
        return choose_for_share(card, *share_asked(op, facts))
    if isinstance(facts, NormFacts):
        return choose_for_norm(card, facts.call(pooled=op == "norm_act_pool"), is_backward(op))
    call = facts.call()
    launches = {backend: [cost_norm.unpool(call)] for backend in BACKENDS}
    measured = _measured(card, "norm_act.backend", norm_facts(card, call, backward=True))
    return measured or _predicted(card, launches, "half", norm=True)


def share_facts(
    card: Card, call: ShareCall, precision: Precision, backward: bool, recompute: bool = False
) -> dict[str, int | str]:
    """What rows of measured choices may ask of a pair."""
    return {
        "channels": max(call.cx, call.cy), "pixels": call.pixels, "itemsize": call.itemsize,
        "precision": precision, "last": int(call.channels_last), "pass": PASSES[backward],
        "gates": int(call.gates and not recompute), "outside": int(call.outside), "card": card.name,
    }  # fmt: skip


def norm_facts(card: Card, call: NormCall, backward: bool) -> dict[str, int | str]:
    """What rows of measured choices may ask of a norm; ``count`` is of a row's elements in a channel."""
    return {
        "elements": call.elements, "channels": call.channels, "count": call.geometry.length,
        "span": call.geometry.span, "itemsize": call.itemsize, "given": int(call.given),
        "noise": int(call.noise), "pooled": int(call.pooled), "last": int(call.channels_last),
        "pass": PASSES[backward], "card": card.name,
    }  # fmt: skip


def choose_for_share(
    card: Card, call: ShareCall, precision: Precision, backward: bool, recompute: bool = False
) -> Choice:
    """The choice for a pair."""
    facts = share_facts(card, call, precision, backward, recompute)
    return _measured(card, "selective_share.backend", facts) or _predicted(
        card, share_kernels(card, call, precision, backward, recompute), precision
    )


def choose_for_norm(card: Card, call: NormCall, backward: bool) -> Choice:
    """The choice for a norm."""
    facts = norm_facts(card, call, backward)
    return _measured(card, "norm_act.backend", facts) or _predicted(
        card, norm_kernels(card, call, backward), "half", norm=True
    )


def forget_choices() -> None:
    """Choose anew: a table was written."""
    kept.clear()
    _choice.cache_clear()


def _measured(card: Card, family: str, facts: dict[str, int | str]) -> Choice | None:
    row = next(tuning.rows_of(card.architecture, family, facts), None)
    if row is None:
        return None
    first = str(row.launch["backend"])
    order = (first, *(name for name in BACKENDS if name != first))
    return Choice(order, str(row), order)


def _predicted(
    card: Card, kernels: dict[str, list[Kernel]], precision: Precision, norm: bool = False
) -> Choice:  # fmt: skip
    ceilings = ceilings_of(card)
    seconds = {name: ceilings.seconds(launches, precision) for name, launches in kernels.items()}
    by_card, order = in_order(seconds, norm=False), in_order(seconds, norm)
    told = ", ".join(f"{name!r} {1e6 * seconds[name]:.3g} us" for name in by_card)
    why = "" if order == by_card else f"; as good as equal, and {order[0]!r} costs the host less"
    return Choice(order, f"the cost model predicts on {ceilings.name}: {told}{why}", by_card)
