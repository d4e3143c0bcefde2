"""The choice between backends: order, wishes, reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from fused_ops import FusedSelectiveShare, backends, explain, native, use


@pytest.fixture
def share() -> FusedSelectiveShare:
    return FusedSelectiveShare(4)


FEATURES = (torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3))


def test_explain_names_who_serves_and_why_the_others_do_not(share: FusedSelectiveShare) -> None:
    (decision,) = explain(share, *FEATURES)
    assert decision.op == "selective_share"
    assert decision.backend == ("cpu" if native.cpu_library().loaded else "reference")
    assert set(decision.reasons) == set(backends.AUTO_ORDER) - {decision.backend}
    assert all(decision.reasons.values())
    text = str(explain(share, *FEATURES))
    assert f"selective_share: served by '{decision.backend}'" in text


def test_explain_of_something_without_fused_ops() -> None:
    assert str(explain(torch.relu, FEATURES[0])) == "no fused op was called"


def test_a_wish_holds_within_the_context_only(share: FusedSelectiveShare) -> None:
    before = backends.requested()
    with use("reference"):
        assert explain(share, *FEATURES)[0].backend == "reference"
        with use("auto"):
            assert backends.requested() == "auto"
        assert backends.requested() == "reference"
    assert backends.requested() == before


def test_a_wish_that_cannot_be_met_raises_with_the_reason(share: FusedSelectiveShare) -> None:
    with (
        use("cuda"),
        pytest.raises(RuntimeError, match="the backend 'cuda' was asked for and cannot serve this call"),
    ):
        share(*FEATURES)
    larger = FusedSelectiveShare(4, kernel_size=3)
    with use("cpu"), pytest.raises(RuntimeError, match=r"has only 1x1 kernels, these are 3x3|library"):
        larger(*FEATURES)


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets FUSED_OPS_BACKEND as if the process had started with it."""

    def set_to(name: str) -> None:
        monkeypatch.setenv("FUSED_OPS_BACKEND", name)
        backends.environments_wish.cache_clear()

    yield set_to
    backends.environments_wish.cache_clear()


def test_the_environment_sets_the_default(
    share: FusedSelectiveShare, set_environment: Callable[[str], None]
) -> None:
    set_environment("reference")
    assert explain(share, *FEATURES)[0].backend == "reference"
    set_environment("fast")
    with pytest.raises(
        ValueError, match=r"FUSED_OPS_BACKEND is 'fast'; known backends are 'auto', 'reference', 'cpu'"
    ):
        share(*FEATURES)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'gpu'; known backends are"), use("gpu"):
        pass


def test_explaining_a_module_leaves_it_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    explain(model, FEATURES[0])
    assert model[0].num_batches_tracked == 0
