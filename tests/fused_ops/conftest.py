"""The small tensors of these tests go to the kernels under test, not to torch's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fused_ops.triton_support import interpreting
from fused_ops.tuning import small_calls


@pytest.fixture(autouse=True, scope="session")
def watched_kernels() -> Iterator[None]:
    """Where Triton's interpreter runs the kernels, their faults in memory are seen."""
    if not interpreting():
        yield
        return
    from tests.fused_ops.watched import watched  # imports triton

    with watched():
        yield


@pytest.fixture(autouse=True)
def no_steps_of_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.stem != "test_stepwise":
        monkeypatch.setattr(small_calls, "quicker_in_steps", lambda *_, **__: None)
