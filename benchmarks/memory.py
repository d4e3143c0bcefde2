"""Memory of a call: what autograd keeps for its backward, and the peak of what it allocates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

COUNTED = "peak_bytes: counted"


def saved_bytes(function: Callable[[], object], ignore: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd keeps for a call's backward: each storage once, those of ``ignore`` left out."""
    storages: dict[int, int] = {}
    ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that is kept as itself keeps the whole graph, for ever

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = function()  # alive until counted, so that no storage is freed and its address used again
    del kept
    return sum(storages.values())


def peak_bytes(function: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes that ``function`` has allocated at one time beyond what there was before it.

    It is called once or twice.

    On the CPU: torch's allocator as its profiler sees it, so what libraries take by other means (oneDNN's
    scratch, C++ vectors, the workspace of our own kernels) is not counted; and the second of two calls, since
    the profiler does not see that something older than itself is freed, as a training step frees the
    gradients of the one before. On CUDA: the caching allocator's own peak.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
        with record_function(COUNTED):
            kept = function()  # what the call returns is alive at its end and counts
    del kept
    now = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == COUNTED:
            now = peak = 0
        elif event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
