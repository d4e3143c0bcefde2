"""A driver that stands for a card's: Triton compiles for an H100, finds its kernels, and starts none."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from fused_ops import tuning
from fused_ops.triton_support import CARDS

CARD = CARDS["sm_90"]


class Driver:
    """As much of a driver as Triton asks for a launch."""

    def __init__(self) -> None:
        self.utils = self

    def launcher_cls(self, source: Any, _metadata: Any) -> Callable[..., None]:
        """What starts a kernel compiled from ``source``; it takes grid, stream, function and arguments."""
        return lambda *_: None

    def load_binary(self, *_: Any) -> tuple[Any, ...]:
        return self, 0, 32, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, _module: Any) -> None: ...

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": CARD.shared_bytes}

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = CARD.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


@contextlib.contextmanager
def driven_by(driver: Driver) -> Iterator[None]:
    """Within the context Triton's launches go to ``driver``; afterwards nothing is left of them."""
    from triton.runtime import JITFunction
    from triton.runtime.driver import driver as active

    kernels, run = set(), JITFunction.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernels.add(self)
        return run(self, *args, **kwargs)

    tuning.forget_tables()  # and with them launches that another driver has made
    # Not set_active: where there is no card it is not undone.
    with mock.patch.object(active, "_active", driver), mock.patch.object(JITFunction, "run", noted):
        try:
            yield
        finally:
            tuning.forget_tables()
            for kernel in kernels:
                kernel.device_caches.clear()
            gc.collect()  # compiled kernels, which want their driver to unload them
