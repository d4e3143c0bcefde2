"""The tuning loop over Triton's own kernels, in the interpreter; test_tune.py starts this."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from fused_ops import backends, tuning
from fused_ops.triton_support import CARDS
from fused_ops.tuning import search, tune, tune_calls


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[search.Call]:
    norm = tune_calls.Norm("batch", "relu", 8, 4, residual=True)
    norms = (norm, norm._replace(pool=True), tune_calls.Norm("adain", "identity", 8, 4))
    monkeypatch.setattr(tune_calls, "NORMS", norms)
    monkeypatch.setattr(tune_calls, "DTYPES", (torch.float16,))
    return tune_calls.calls(torch.device("cpu"), batch=2, shares=((16, 4), (64, 2)))


def test_calls_are_grouped_by_what_the_tables_tell_apart(
    calls: list[search.Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no kernel is started for it, which would have to be compiled first."""
    monkeypatch.setattr(InterpretedFunction, "__getitem__", None)
    groups = tune.groups(calls, CARDS["sm_90"])
    families = sorted(f"{group.family} {group.facts.get('channels', '')}" for group in groups)
    assert families == [
        "norm_act.backward ",
        "norm_act.forward ",
        *("selective_share.backward 16", "selective_share.backward 64"),
        *("selective_share.forward 16",) * 2,  # with gates and without
        *("selective_share.forward 64",) * 2,
    ]  # the weights' gradients belong to the backward of so few channels
    by_family = {group.family: group for group in groups}
    assert len(by_family["norm_act.forward"].calls) == 6  # three norms in two layouts


def test_candidates_of_the_kernels_run_and_agree(calls: list[search.Call]) -> None:
    """Every other kernel of the tables, too: a pair of 16 channels may be served by all three."""
    tried = []

    def clock(call: Callable[[], object]) -> float:
        with backends.use("triton"), tuning.asked() as rows:
            call()
        tried.append([row for *_, row in rows])
        return 1.0 if rows else 0.5  # rows are asked for but where one is on trial

    report = tune.tune(calls[2:3], CARDS["sm_90"], clock, 60, say=lambda line: None)
    (row,) = report.rows["selective_share.forward"]
    assert row["launch"]["kernel"] in ("resident", "unit", "products")
    assert "tried;" in row["note"], row["note"]  # all ran, and none computed otherwise
    assert len(tried) > 5
