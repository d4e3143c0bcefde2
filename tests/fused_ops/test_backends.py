"""The choice between backends: order, wishes, reasons."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from fused_ops import FusedSelectiveShare, backends, explain, group_norm_act, native, use


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
    elsewhere = [tensor.to("meta") for tensor in FEATURES]
    for call in (lambda: share.to("meta")(*elsewhere), lambda: group_norm_act(elsewhere[0], 2)):
        with use("cpu"), pytest.raises(RuntimeError, match="the tensors are on meta"):
            call()


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
    set_environment("")  # as if it were not set
    assert backends.requested() == "auto"
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


def overlapping(
    first: Callable[[Callable[[], None]], object], second: Callable[[Callable[[], None]], object]
) -> list[object]:
    """Results of two threads: the first starts first and, while the second is under way, ends first.

    Each is handed what to call in its midst.
    """
    started, ended = threading.Event(), threading.Event()
    results: list[object] = [None, None]

    def run_first() -> None:
        def midst() -> None:
            started.set()
            assert in_second.wait(10)

        results[0] = first(midst)
        ended.set()

    def run_second() -> None:
        def midst() -> None:
            in_second.set()
            assert ended.wait(10)

        assert started.wait(10)
        results[1] = second(midst)

    in_second = threading.Event()
    threads = [threading.Thread(target=run) for run in (run_first, run_second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_wishes_of_two_threads_that_overlap_end_each_by_itself() -> None:
    before = backends.requested()

    def wishing(name: str) -> Callable[[Callable[[], None]], object]:
        def run(midst: Callable[[], None]) -> str:
            with use(name):
                midst()
                return backends.requested()

        return run

    assert overlapping(wishing("reference"), wishing("cpu")) == ["cpu", "cpu"]
    assert backends.requested() == before


def test_explanations_of_two_threads_that_overlap_end_each_by_itself(share: FusedSelectiveShare) -> None:
    def explaining(midst: Callable[[], None]) -> int:
        def call() -> None:
            midst()
            share(*FEATURES)

        return len(explain(call))

    first, second = overlapping(explaining, explaining)
    assert (first, second) == (1, 2)  # the first one's call came while the second was open
    assert not backends._logs


def test_a_compiled_function_may_ask_for_a_backend(share: FusedSelectiveShare) -> None:
    def asking(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with use("reference"):
            return share(x, y)  # type: ignore[no-any-return]

    torch._dynamo.reset()
    compiled = torch.compile(asking, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*FEATURES), share(*FEATURES))
    assert backends.requested() == "auto"
