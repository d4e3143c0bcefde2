"""torch's own counter knows the FLOP of the op: those of the definition in plain PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fused_ops import FusedConvFLU, FusedSelectiveShare, tracing, use
from fused_ops.selective_share import reference


def flop(function: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def weights_of(layer: FusedConvFLU | FusedSelectiveShare) -> list[Tensor | None]:
    weights: list[Tensor | None] = list(layer.parameters())
    return [*weights, *[None] * (8 - len(weights))]


@pytest.mark.parametrize("size", [(5, 3), (16, 16)], ids=["products", "convolutions"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layer", [FusedConvFLU, FusedSelectiveShare])
def test_a_layer_counts_as_its_definition(
    layer: type, kernel: int, recompute: bool, size: tuple[int, int]
) -> None:
    share = layer(4, 6, kernel_size=kernel, recompute=recompute)
    x, y = (torch.randn(2, channels, *size, requires_grad=True) for channels in (4, 6))
    arguments = (x, y, *weights_of(share), False)

    found: list[Tensor] = []
    assert flop(lambda: found.append(sum_of(share(x, y)))) == flop(lambda: reference.forward(*arguments))

    x_out, y_out, gates = reference.forward(*arguments)
    grads = torch.ones_like(x_out), torch.ones_like(y_out) if layer is FusedSelectiveShare else None, None
    kept = None if recompute else gates
    with torch.no_grad():
        expected = flop(lambda: reference.backward(*grads, x, y, kept, *arguments[2:]))
    assert flop(found[0].backward) == expected > 0


def sum_of(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([output.flatten() for output in outputs]).sum()


def test_a_pair_counts_what_the_readme_says() -> None:
    share, (x, y) = FusedSelectiveShare(8), torch.randn(2, 3, 8, 5, 7, requires_grad=True)
    pixels = 3 * 5 * 7
    with use("reference"):
        assert flop(lambda: share(x, y)) == 24 * 8**2 * pixels
        assert flop(lambda: sum_of(share(x, y)).backward()) == (24 + 48) * 8**2 * pixels


def test_what_stays_a_node_of_a_compiled_graph_counts() -> None:
    share, (x, y) = FusedSelectiveShare(4), torch.randn(2, 2, 4, 8, 8)
    arguments = (x, y, *weights_of(share), False, False, False)
    op = torch.ops.fused_ops.selective_share
    assert flop(lambda: op.traced(*arguments, tracing.asked())) == flop(lambda: op.default(*arguments)) > 0


@pytest.mark.parametrize("first", ["fused_ops", "torch.utils.flop_counter"])
def test_the_counter_may_be_imported_before_and_after(first: str) -> None:
    (second,) = {"fused_ops", "torch.utils.flop_counter"} - {first}
    code = f"""
import importlib, sys, torch
importlib.import_module({first!r})
assert {second!r} not in sys.modules
importlib.import_module({second!r})
known = torch.utils.flop_counter.flop_registry
assert torch.ops.fused_ops.selective_share in known and torch.ops.fused_ops.selective_share_backward in known
importlib.reload(torch.utils.flop_counter)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_counter_is_found_as_without_us() -> None:
    """By finders of frozen or checked code, too, which may load all modules with one loader."""
    code = """
import importlib, sys, torch
from importlib.machinery import PathFinder
from importlib.util import spec_from_loader
COUNTER, OTHER = "torch.utils.flop_counter", "other"

class Archive:
    def find_spec(self, name, path, target=None):
        return spec_from_loader(name, self) if name in (COUNTER, OTHER) else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if module.__name__ == COUNTER:
            source = PathFinder.find_spec(COUNTER, torch.utils.__path__).loader.get_source(COUNTER)
            exec(source, vars(module))

archive = Archive()
sys.meta_path.insert(0, archive)
import fused_ops
counter, other = importlib.import_module(COUNTER), importlib.import_module(OTHER)
for module in (counter, other):
    assert module.__loader__ is module.__spec__.loader is archive
assert torch.ops.fused_ops.selective_share in counter.flop_registry
"""
    subprocess.run([sys.executable, "-c", code], check=True)
