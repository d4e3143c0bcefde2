"""The same layers in torch's own steps: norm, residual, activation, each with its own autograd.

One fused op costs more to call than torch's kernels do, some 30 microseconds, and its kernels gain only on
tensors that are worth it. So the automatic choice leaves small calls to torch (and all calls that no native
kernel would serve: the reference is there to be read, not to be fast). What is kept for the backward is then
what torch keeps; on tensors of this size that is little.
"""

from __future__ import annotations

from torch import Tensor

from fused_ops import backends, native
from fused_ops.norm_act.after import After
from fused_ops.norm_act.layout import PLAIN, memory_format
from fused_ops.registration import is_observed

# Measured forward + backward on one thread of an AVX-512 processor. Elements up to which a call is small; the
# same for instance norm in channels_last, where torch's kernels are slow; and for planes of few elements in
# channels_last, where they are quick (with contiguous ones they always are).
SMALL, SMALL_INSTANCE, SMALL_SHORT = 1 << 15, 1 << 12, 1 << 16
SHORT = 64


def is_better(x: Tensor, instance: bool, residual: Tensor | None = None) -> bool:
    """Whether ``auto`` takes torch's own steps for this call, which :func:`backends.explain` then tells.

    All small tensors that take part must be of x's dtype: the op knows how to mix others.
    """
    if not x.is_cpu or x.__class__ not in PLAIN or backends.requested() != "auto" or is_observed():
        return False
    if residual is not None and (residual.__class__ not in PLAIN or residual.dtype != x.dtype):
        return False
    if reason := _reason(x, instance):
        backends.note("norm_act", "reference", x, reason)
        return True
    return False


def finish(x: Tensor, z: Tensor, after: After) -> Tensor:
    """From z, the norm of x, the layer's output in the memory format that the op would give it."""
    if not x.is_contiguous():
        z = z.contiguous(memory_format=memory_format(x))  # torch's instance norm makes all outputs contiguous
    return after.apply(z, owned=True)


def _reason(x: Tensor, instance: bool) -> str | None:
    size = x.numel()
    if not size:
        return None
    library = native.cpu_library()
    if not library.loaded:
        return library.reason
    plane, contiguous = size // (x.size(0) * x.size(1)), x.is_contiguous()
    if size <= (SMALL_INSTANCE if instance and not contiguous else SMALL):
        return f"torch's own kernels are quicker for {size} elements"
    if plane < SHORT and (contiguous or (not instance and size <= SMALL_SHORT)):
        return f"torch's own kernels are quicker for planes of {plane} elements"
    return None
