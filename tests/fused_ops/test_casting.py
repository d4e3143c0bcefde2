from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from fused_ops.casting import autocasts, cast_together


def test_a_launch_writes_one_dtype() -> None:
    """Some versions of torch take all for the first's dtype, on a GPU, and write beyond narrower ones."""
    tensors = [torch.randn(2, 3).bfloat16().T for _ in range(5)]
    dtypes = [torch.float32, torch.float16, None, torch.float32, torch.bfloat16]
    with patch.object(torch, "_foreach_copy_", wraps=torch._foreach_copy_) as launch:
        found = cast_together([*tensors, None], [*dtypes, torch.float32])
    written = [{tensor.dtype for tensor in call.args[0]} for call in launch.call_args_list]
    assert sorted(written, key=str) == [{torch.float16}, {torch.float32}]
    assert found[2] is tensors[2] and found[4] is tensors[4] and found[5] is None
    for tensor, dtype, cast in zip(tensors, dtypes, found, strict=False):
        assert cast is not None and torch.equal(cast, tensor.to(dtype or tensor.dtype))
        assert cast.dtype == (dtype or tensor.dtype) and (cast is tensor or cast.is_contiguous())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_whether_autocast_is_on_is_known_while_compiling(device: str) -> None:
    x = torch.empty(2, device=device)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x + autocasts(x), backend="eager", fullgraph=True)
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            assert autocasts(x) == (on and device == "cpu")
            compiled(x)
