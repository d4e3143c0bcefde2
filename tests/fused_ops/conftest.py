"""The small tensors of these tests go to the kernels under test, not to torch's own."""

from __future__ import annotations

import pytest

from fused_ops.tuning import small_calls


@pytest.fixture(autouse=True)
def no_steps_of_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.path.stem != "test_stepwise":
        monkeypatch.setattr(small_calls, "quicker_in_steps", lambda *_, **__: None)
