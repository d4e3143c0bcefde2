"""How activations and 2x2 max-pooling appear in models, as modules and calls; for :mod:`fused_ops.fuse`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

Found = tuple[str, float | None]  # activation and slope
_SIMPLE: dict[Any, str] = {
    nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Hardswish: "hardswish",
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.silu: "silu", F.hardswish: "hardswish",
    F.tanh: "tanh", torch.tanh: "tanh", F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid",
    **{method: method.rstrip("_") for method in ("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_")},
}  # fmt: skip
# Those with an option: its name, its default, and from its value to activation and slope, or None.
_WITH_OPTION: dict[Any, tuple[str, Any, Callable[[Any], Found | None]]] = {}
for _kinds, _option, _default, _meaning in (
    (
        (nn.LeakyReLU, F.leaky_relu),
        "negative_slope",
        0.01,
        lambda a: ("leaky_relu", a) if 0 <= a < math.inf else None,
    ),
    ((nn.ELU, F.elu), "alpha", 1.0, lambda a: ("elu", None) if a == 1 else None),
    ((nn.GELU, F.gelu), "approximate", "none", lambda a: ("gelu", None) if a == "none" else None),
):
    for _kind in _kinds:
        _WITH_OPTION[_kind] = (_option, _default, _meaning)
ACTIVATION_MODULES: tuple[type[nn.Module], ...] = tuple(
    kind for kind in (*_SIMPLE, *_WITH_OPTION) if isinstance(kind, type)
)


def activation_module(module: nn.Module) -> Found | None:
    if type(module) in _SIMPLE:
        return _SIMPLE[type(module)], None
    if type(module) in _WITH_OPTION:
        option, _, meaning = _WITH_OPTION[type(module)]
        return meaning(getattr(module, option))
    return None


def activation_call(node: fx.Node) -> Found | None:
    options = dict(zip(("", "inplace"), node.args[1:], strict=False)) | dict(node.kwargs)
    if node.target in _SIMPLE:
        return (_SIMPLE[node.target], None) if set(options) <= {"inplace", ""} else None
    if node.target not in _WITH_OPTION:
        return None
    option, default, meaning = _WITH_OPTION[node.target]
    value = options.get(option, options.get("", default))
    return meaning(value) if isinstance(value, int | float | str) else None


def _is_two_by_two(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> bool:
    """Whether these arguments of max-pooling ask for what the fused modules do."""
    sizes = (kernel_size, kernel_size if stride is None else stride, padding, dilation)
    pairs = [tuple(size) if isinstance(size, tuple | list) else (size, size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not ceil_mode and not return_indices


def is_pool_module(module: nn.Module) -> bool:
    return type(module) is nn.MaxPool2d and _is_two_by_two(
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    )


def is_pool_call(node: fx.Node) -> bool:
    args: Any = node.args[1:]
    kwargs: Any = node.kwargs
    return node.target in (F.max_pool2d, torch.max_pool2d) and _is_two_by_two(*args, **kwargs)
