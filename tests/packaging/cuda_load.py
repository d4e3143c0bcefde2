"""`make check-cuda-load`: both installed libraries load into a torch with CUDA and register their ops."""

from __future__ import annotations

import torch

from fused_ops import backends, native

ops = backends.ops("cuda")
for key, status in (("CPU", native.cpu_library()), ("CUDA", native.cuda_library())):
    if not status.loaded:
        raise SystemExit(status.reason)
    for name in ops:
        qualified = f"fused_ops_{key.lower()}::{name}"
        if not torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key):
            raise SystemExit(f"{qualified} has no kernel for {key}")
cards = torch.cuda.device_count()
print(f"loaded into torch {torch.__version__} with {cards} cards: {', '.join(ops)}")
