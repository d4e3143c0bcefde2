"""How ``torch.fx`` records a layer of ours: as one call, as it records the layers of torch.nn itself.

It would look into a layer that is not torch.nn's, and meet checks there that ask a stand-in for its shape.
``torch.jit.script`` looks into every layer; what it says of a line that it cannot read helps no one.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch import fx, nn


def recorded_call(layer: nn.Module, x: fx.Proxy, *args: Any) -> Any:
    """The stand-in for what ``layer(x, *args)`` will give; x is one that a ``torch.fx.Tracer`` has made.

    Raises:
        torch.fx.proxy.TraceError: the layer is all that is recorded, as torch.nn's own cannot be, either; or
            a subclass's forward asks its super's, and would run twice in a graph that calls the layer.
    """
    tracer: Any = x.tracer
    if layer.forward.__module__.partition(".")[0] != __package__:
        raise fx.proxy.TraceError(
            f"torch.fx cannot look into {type(layer).__name__}, which has a forward of its own; record it as "
            "one call, with a torch.fx.Tracer whose is_leaf_module says so"
        )
    if tracer.root is layer:
        raise fx.proxy.TraceError(f"torch.fx records {type(layer).__name__} as a part of a model only")
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (x, *args), {})


def refuse_script(layer: nn.Module) -> NoReturn:
    """What ``torch.jit.script`` asks for as ``layer.__prepare_scriptable__()``.

    Raises:
        TypeError: always.
    """
    raise TypeError(
        f"torch.jit.script cannot compile {type(layer).__name__} of fused_ops; take torch.jit.trace, "
        "torch.export or torch.compile, or script a stock model"
    )
