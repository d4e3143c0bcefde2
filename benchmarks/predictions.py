"""What the cost model predicts for a case of the suites on a card, with no card at hand."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.cases import DTYPES, OPS, Case, Selection, norm_groups
from fused_ops.triton_support import CARDS, Card
from fused_ops.tuning import dispatch
from fused_ops.tuning.cost_model import CEILINGS, Cost, Kernel
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.cost_share import ShareCall

H100 = CARDS["sm_90"]
BACKENDS = dispatch.BACKENDS
# Of each op of norm_act: what its call is, besides its sizes; problems.py makes the tensors.
_NORMS: dict[str, dict[str, object]] = {
    "batch_norm_act": {},
    "batch_norm_act_eval": {"given": True},
    "batch_norm_act_inplace": {},
    "batch_norm_act_pool": {"residual": True, "pooled": True},
    "batch_norm_act_residual": {"residual": True},
    "instance_norm_act": {"groups": "channels"},
    "group_norm_act": {"groups": "groups", "evidence": "input"},
    "adain": {"groups": "channels", "noise": True, "evidence": "nothing"},
}


def share_call(case: Case, backward: bool) -> ShareCall:
    """What a pair's cost depends on; the backward makes the gates again where they are not kept."""
    shape, itemsize, last = case.shape, DTYPES[case.dtype].itemsize, case.layout == "channels_last"
    gates = backward or (case.mode != "forward" and not case.op.endswith("recompute"))
    return ShareCall(shape.channels, shape.channels, shape.pixels, itemsize, last, gates)


def norm_call(case: Case) -> NormCall:
    """What a norm's cost depends on."""
    shape, facts = case.shape, dict(_NORMS[case.op])
    if facts.get("groups") == "channels":
        facts["groups"] = shape.channels
    elif facts.get("groups") == "groups":
        facts["groups"] = norm_groups(shape.channels)
    sizes = (shape.batch, shape.channels, shape.side**2, DTYPES[case.dtype].itemsize)
    return NormCall(*sizes, channels_last=case.layout == "channels_last", **facts)  # type: ignore[arg-type]


def kernels(case: Case, card: Card = H100, products: str = "") -> dict[str, list[Kernel]]:
    """The launches of a case by each GPU backend; empty for FERSNet's steps.

    ``products`` are computed in this precision, else in that of :func:`precision`.
    """
    passes = {"forward": (False,), "backward": (True,), "full": (False, True)}.get(case.mode, ())
    found: dict[str, list[Kernel]] = {}
    for backward in passes:
        if OPS[case.op].suite == "selective_share":
            again = backward and case.op.endswith("recompute")
            call = share_call(case, backward)
            launches = dispatch.share_kernels(card, call, products or precision(case), backward, again)
        else:
            launches = dispatch.norm_kernels(card, norm_call(case), backward)
        for backend, more in launches.items():
            found.setdefault(backend, []).extend(more)
    return found


def precision(case: Case) -> str:
    """What products are computed in: float32 exactly, torch's default."""
    return "half" if DTYPES[case.dtype].itemsize == 2 else "ieee"


def seconds(case: Case, backend: str, card: str = "H100") -> float | None:
    """The predicted time of a case, None where there is no prediction."""
    launches = kernels(case).get(backend)
    return None if launches is None else CEILINGS[card].seconds(launches, precision(case))


def bound_seconds(case: Case, card: str = "H100") -> float | None:
    """The time of the fewest bytes and FLOPs."""
    cost = case.cost()
    if cost.bytes is None:
        return None
    return CEILINGS[card].roofline(cost.flops or 0, cost.bytes, precision(case))


COLUMNS = ("op", "mode", "shape", "dtype", "layout", "backend", "launches", "bytes", "FLOP")


def rows(cards: Iterable[str], tier: str = "quick") -> list[tuple[str, ...]]:
    """Of every case and GPU backend :data:`COLUMNS`, and on every card the predicted time and the bound's."""
    cards = tuple(cards)
    found: list[tuple[str, ...]] = []
    for suite in ("selective_share", "norm_act"):
        for case in Selection(tier).cases(suite):
            for backend, launches in kernels(case).items():
                cost = Cost.of(launches)
                times = [
                    f"{1e6 * (seconds(case, backend, card) or 0):.3g} "
                    f"({1e6 * (bound_seconds(case, card) or 0):.3g})"
                    for card in cards
                ]
                found.append(
                    (
                        case.op, case.mode, case.shape.name, case.dtype, case.layout, backend,
                        str(cost.launches), f"{cost.bytes:.3g}", f"{cost.flops:.3g}", *times,
                    )
                )  # fmt: skip
    return found
