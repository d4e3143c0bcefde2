"""`make check-cuda-load`: the installed CUDA library loads into a torch with CUDA and registers its ops."""

from __future__ import annotations

import torch

from fused_ops import backends, native

status = native.cuda_library()
if not status.loaded:
    raise SystemExit(status.reason)
ops = backends.ops("cuda")
for name in ops:
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"fused_ops_cuda::{name}", "CUDA"):
        raise SystemExit(f"fused_ops_cuda::{name} has no kernel for CUDA")
cards = torch.cuda.device_count()
print(f"loaded into torch {torch.__version__} with {cards} cards: {', '.join(ops)}")
