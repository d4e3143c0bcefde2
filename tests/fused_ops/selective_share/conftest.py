from __future__ import annotations

import pytest

from fused_ops import native

BACKENDS = ("reference", "cpu")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs on this machine; one that does not is skipped with its reason."""
    if request.param == "cpu" and not native.cpu_library().loaded:
        pytest.skip(native.cpu_library().reason)
    return str(request.param)
