"""Rules for every test: same seed, poisoned memory, settled threads and signals, nothing run that cannot."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fer_mtl.processors import available_processors

SEED = 20201


def pytest_configure(config: pytest.Config) -> None:
    """Under xdist every worker gets its share of the processors, lest threads wait for each other.

    Ctrl-C is heard also where a shell that runs the tests in its background has it ignored: some send it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        threads = max(1, available_processors() // workers)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that tests start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = f"no CUDA device (torch {torch.__version__})"
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        missing["inductor"] = "no C++ compiler for torch.compile"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _same_for_every_test() -> Iterator[None]:
    """Seed all generators, poison new memory, and put back the global settings that a test changed.

    Deterministic mode fills what `torch.empty` and its kin return with NaN (integers: the largest value),
    also when C++ code allocates through the stable ABI, so that an output nobody wrote is seen. `warn_only`
    leaves operations without a deterministic version usable.
    """
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
