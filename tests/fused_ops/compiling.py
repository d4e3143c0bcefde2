"""Graphs that torch.compile makes, and code that Inductor makes of them for a card, with no card at hand."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_ops import triton_support

H100 = triton_support.CARDS["sm_90"]


class Made(Exception):
    """The graph or the code is there, and is not to be run."""


class _Driver:
    """What Triton asks of a card before it compiles: which one."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)


@contextlib.contextmanager
def as_on_h100(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the context kernels are chosen and analysed as for an H100, for tensors of any device."""
    import triton

    monkeypatch.setattr(triton_support, "why_not", lambda *tensors: None)
    monkeypatch.setattr(triton_support, "card_of", lambda device: H100)
    monkeypatch.setattr(triton_support, "interpreting", lambda: False)
    triton.runtime.driver.set_active(_Driver())
    try:
        yield
    finally:
        triton.runtime.driver.set_active(None)  # to be found when it is next asked for


def graph_of(function: Callable[..., Any], *inputs: Any, dynamic: bool = False) -> fx.Graph:
    """The graph a compiler gets: forward and backward together where the inputs want gradients."""
    graphs: list[fx.Graph] = []

    def keep(module: fx.GraphModule, _: Any, **options: Any) -> Any:
        graphs.append(module.graph)
        raise Made

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=keep)
    with torch._functorch.config.patch(enable_autograd_cache=False):
        try:
            torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)(*inputs)
        except Exception:
            if not graphs:
                raise
    return graphs[0]


def kernels_in(graph: fx.Graph) -> list[str]:
    """The Triton kernels that a graph launches, in order."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    found = [node.kwargs["kernel_idx"] for node in graph.nodes if "kernel_idx" in node.kwargs]
    kernels = [kernel_side_table.get_kernel(index) for index in found]
    return [getattr(kernel.fn, "fn", kernel.fn).__name__ for kernel in kernels]


def ops_in(graph: fx.Graph) -> set[str]:
    """The ops of ``fused_ops`` that are left in a graph, as "name.overload"."""
    names = (str(node.target) for node in graph.nodes if node.op == "call_function")
    return {name.removeprefix("fused_ops.") for name in names if name.startswith("fused_ops.")}


# --- Inductor's code ----------------------------------------------------------------------------------------


def code_for_cuda(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], shapes: Any) -> str:
    """What Inductor writes for a function of float32 tensors of these shapes on "cuda:0"."""
    if torch.__version__ < "2.11":
        pytest.skip(
            "torch 2.10 does not trace functions of fake tensors, which stand for those of a card here"
        )
    from torch._dynamo.device_interface import caching_worker_device_properties
    from torch._inductor import scheduler
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes import post_grad, reinplace
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime.hints import DeviceProperties
    from torch._inductor.virtualized import V

    properties = SimpleNamespace(
        multi_processor_count=H100.processors, major=9, minor=0, warp_size=32, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048, total_memory=80 << 30, name=H100.name,
    )  # fmt: skip
    hints = DeviceProperties(
        "cuda", 0, multi_processor_count=H100.processors, cc=90, major=9, regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048, warp_size=32,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    monkeypatch.setitem(caching_worker_device_properties, "cuda", [properties])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(DeviceProperties, "create", lambda device: hints)
    monkeypatch.setattr(scheduler, "has_triton", lambda *_: True)
    written: list[str] = []

    def write(module: fx.GraphModule, inputs: Any, **options: Any) -> Any:
        reinplace.reinplace_inplaceable_ops_core(module.graph)
        post_grad.decompose_triton_kernel_wrapper_functional(module.graph)
        module.recompile()
        with V.set_fake_mode(torch._guards.detect_fake_mode(inputs)), V.set_debug_handler(DebugContext()):
            lowering = GraphLowering(module, example_inputs=inputs)
            with V.set_graph_handler(lowering):
                lowering.run(*inputs)
                code = lowering.codegen()[0]
        written.append(getattr(code, "value", code))
        raise Made

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=write, decompositions=select_decomp_table())
    with FakeTensorMode(), torch.no_grad():
        inputs = [torch.empty(shape, device="cuda:0") for shape in shapes]
        try:
            torch.compile(function, backend=backend, fullgraph=True)(*inputs)
        except Exception:
            if not written:
                raise
    return written[0]


_SOURCE = re.compile(r"= async_compile\.triton\('(\w+)', '''\n(.*?)\n''', device_str", re.DOTALL)


def compile_kernels(code: str, folder: Path) -> dict[str, Any]:
    """Compile, for an H100, the kernels of ours that stand in Inductor's code, each from its own source."""
    import triton
    from torch._inductor.runtime import hints
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found: dict[str, Any] = {}
    given = SimpleNamespace(user_autotune=dict)  # the decorator's arguments, instead of a launcher
    for name, source in _SOURCE.findall(code):
        if "@triton_heuristics.user_autotune" not in source:
            continue
        at = source.index("@triton.jit")
        call, body = source[source.index("@triton_heuristics") + 1 : at], source[at:]
        facts = eval(call.strip(), {**vars(hints), "triton_heuristics": given, "__file__": name})
        path = folder / f"{name}.py"
        path.write_text(f"import triton\nimport triton.language as tl\n\n{body}\n")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        meta, (options,) = facts["triton_meta"], facts["configs"]
        kernel, (attributes,) = getattr(module, name), meta["configs"]
        ast = ASTSource(kernel, meta["signature"], constexprs=meta["constants"], attrs=attributes)
        found[name] = triton.compile(ast, target=GPUTarget("cuda", 90, 32), options=options)
    return found


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
