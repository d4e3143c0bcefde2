"""``fuse(model)``: the norm + activation (+ residual) chains of a stock model, replaced by fused ones.

A chain is fused only where that provably computes the same. Between the children of an ``nn.Sequential``
this is plain to see; any other module's forward is recorded and examined (:mod:`fused_ops.recording`). All
else is left alone, with the reason.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fused_ops.norm_act.module import (
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    WithActivation,
)
from fused_ops.recording import Unproven, record

NO_ACTIVATION = "no activation of the table follows it directly"


@dataclass
class FuseReport:
    """What :func:`fuse` did; prints as text.

    Attributes:
        fused: chain by chain, the norm's name and what was fused with it, ``{"layer1.bn2": "add + relu"}``.
        skipped: the names of the norms that stayed, with the reason.
    """

    fused: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"fused {len(self.fused)} of {len(self.fused) + len(self.skipped)} norms"]
        lines += [f"    {name} + {rest}" for name, rest in self.fused.items()]
        lines += [f"    not {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


class Fused(NamedTuple):
    """The model and what was done to it: ``model, report = fuse(model)``."""

    model: nn.Module
    report: FuseReport


def fuse(model: nn.Module, *, inplace: bool = False) -> Fused:
    """Replace norm + activation and norm + add + activation by the fused modules; results stay the same.

    Batch, instance and group norm (2d, torch.nn's own) with any activation of
    :data:`fused_ops.activations.ACTIVATIONS`. Parameters, buffers and their names stay. A module in whose
    forward an add was fused, or an activation called as a function, becomes a ``torch.fx.GraphModule``: a
    recording of that forward as it was at this moment.

    Args:
        model: any module; it is left as it is unless ``inplace``.
        inplace: change the model itself instead of a copy.

    Returns:
        ``(model, report)``; print the report.

    Raises:
        TypeError: the model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    fusion = _Fusion(model if inplace else copy.deepcopy(model))
    return Fused(fusion.run(), fusion.report)


class _AddsAnything(WithActivation):
    """For residuals of which only a run will tell whether they are like x; the others go torch's own way."""

    def forward(self, x: Tensor, residual: Any = None) -> Tensor:
        if residual is None or (
            isinstance(residual, Tensor) and residual.shape == x.shape and residual.dtype == x.dtype
        ):
            result: Tensor = super().forward(x, residual)
            return result
        stock = next(kind for kind in type(self).__mro__ if kind in FUSED)
        return self._in_steps(stock.forward(self, x), residual)


class BatchNormAddAct2d(_AddsAnything, FusedBatchNormAct2d):
    """What :func:`fuse` makes of batch norm + add + activation."""


class InstanceNormAddAct2d(_AddsAnything, FusedInstanceNormAct2d):
    """What :func:`fuse` makes of instance norm + add + activation."""


class GroupNormAddAct(_AddsAnything, FusedGroupNormAct):
    """What :func:`fuse` makes of group norm + add + activation."""


# torch's module -> ours, and ours with a residual.
FUSED: dict[type[nn.Module], tuple[type[WithActivation], type[WithActivation]]] = {
    nn.BatchNorm2d: (FusedBatchNormAct2d, BatchNormAddAct2d),
    nn.InstanceNorm2d: (FusedInstanceNormAct2d, InstanceNormAddAct2d),
    nn.GroupNorm: (FusedGroupNormAct, GroupNormAddAct),
}


# --- activations as they appear in models -------------------------------------------------------------------

_Found = tuple[str, float | None]  # activation and slope
_SIMPLE: dict[Any, str] = {
    nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.Hardswish: "hardswish",
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.silu: "silu", F.hardswish: "hardswish",
    F.tanh: "tanh", torch.tanh: "tanh", F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid",
    **{method: method.rstrip("_") for method in ("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_")},
}  # fmt: skip
# Those with an option: its name, its default, and from its value to activation and slope, or None.
_WITH_OPTION: dict[Any, tuple[str, Any, Callable[[Any], _Found | None]]] = {}
for _kinds, _option, _default, _meaning in (
    ((nn.LeakyReLU, F.leaky_relu), "negative_slope", 0.01, lambda a: ("leaky_relu", a) if a >= 0 else None),
    ((nn.ELU, F.elu), "alpha", 1.0, lambda a: ("elu", None) if a == 1 else None),
    ((nn.GELU, F.gelu), "approximate", "none", lambda a: ("gelu", None) if a == "none" else None),
):
    for _kind in _kinds:
        _WITH_OPTION[_kind] = (_option, _default, _meaning)


def _activation_module(module: nn.Module) -> _Found | None:
    if type(module) in _SIMPLE:
        return _SIMPLE[type(module)], None
    if type(module) in _WITH_OPTION:
        option, _, meaning = _WITH_OPTION[type(module)]
        return meaning(getattr(module, option))
    return None


def _activation_call(node: fx.Node) -> _Found | None:
    options = dict(zip(("", "inplace"), node.args[1:], strict=False)) | dict(node.kwargs)
    if node.target in _SIMPLE:
        return (_SIMPLE[node.target], None) if set(options) <= {"inplace", ""} else None
    if node.target not in _WITH_OPTION:
        return None
    option, default, meaning = _WITH_OPTION[node.target]
    value = options.pop(option, options.pop("", default))
    return meaning(value) if isinstance(value, int | float | str) and set(options) <= {"inplace"} else None


# --- the fusion ---------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    norm: fx.Node
    activation: fx.Node
    found: _Found
    add: fx.Node | None = None

    @property
    def residual(self) -> Any:
        assert self.add is not None
        return self.add.args[1] if self.add.args[0] is self.norm else self.add.args[0]


class _Fusion:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.report = FuseReport()
        self.uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
        self.norms = {id(m): name or "the model" for name, m in model.named_modules() if type(m) in FUSED}

    def run(self) -> nn.Module:
        model = self.visit(self.model)
        for name in self.norms.values():
            if name not in self.report.fused:
                self.report.skipped.setdefault(name, NO_ACTIVATION)
        return model

    def visit(self, module: nn.Module) -> nn.Module:
        """Fuse within the module, innermost first, and return what takes its place."""
        for name, child in module.named_children():
            if self.uses[id(child)] == 1:
                setattr(module, name, self.visit(child))
        if type(module) is nn.Sequential:
            self.fuse_sequential(module)
        elif not isinstance(module, nn.ModuleList | nn.ModuleDict | fx.GraphModule):
            return self.fuse_forward(module)
        return module

    def fuse_sequential(self, module: nn.Sequential) -> None:
        children = list(module.named_children())
        for (_, norm), (name, following) in pairwise(children):
            found = _activation_module(following)
            if type(norm) not in FUSED or found is None:
                continue
            try:
                self.check_plain(norm, following)
            except Unproven as reason:
                self.skip(norm, str(reason))
                continue
            self.convert(norm, found)
            setattr(module, name, nn.Identity())

    def fuse_forward(self, module: nn.Module) -> nn.Module:
        below = [child for name, child in module.named_modules() if name and id(child) in self.norms]
        if not any(type(norm) in FUSED for norm in below):
            return module
        try:
            graph = record(module)
        except Unproven as reason:
            for norm in module.children():
                if type(norm) in FUSED:
                    self.skip(norm, str(reason))
            return module
        chains = []
        for node in graph.nodes:
            if node.op != "call_module" or type(norm := module.get_submodule(str(node.target))) not in FUSED:
                continue
            try:
                chains.append(self.chain(module, graph, node))
            except Unproven as reason:
                self.skip(norm, str(reason))
        calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        rewritten = False
        for chain in chains:
            norm = module.get_submodule(str(chain.norm.target))
            self.convert(norm, chain.found, adds=chain.add is not None)
            name = str(chain.activation.target)
            if chain.add is None and chain.activation.op == "call_module" and calls[name] == 1:
                owner, _, last = name.rpartition(".")
                if self.uses[id(module.get_submodule(name))] == 1:
                    setattr(module.get_submodule(owner), last, nn.Identity())
                    continue
            _rewrite(graph, chain)
            rewritten = True
        return _graph_module(module, graph) if rewritten else module

    def chain(self, module: nn.Module, graph: fx.Graph, node: fx.Node) -> _Chain:
        """The chain that starts at a norm's node.

        Raises:
            Unproven: there is none, or it cannot be fused.
        """
        if sum(n.target == node.target for n in graph.nodes if n.op == "call_module") > 1:
            raise Unproven("it is called more than once")
        if len(node.args) != 1 or node.kwargs:
            raise Unproven("it is not called with one tensor")
        if len(node.users) != 1:
            raise Unproven(f"its output is used {len(node.users)} times")
        following = next(iter(node.users))
        add = following if _is_add_of(following, node) else None
        if add is not None:
            if len(add.users) != 1:
                raise Unproven("the sum of its output and another is used more than once")
            following = next(iter(add.users))
        called = module.get_submodule(str(following.target)) if following.op == "call_module" else None
        found = _activation_call(following) if called is None else _activation_module(called)
        if found is None:
            raise Unproven(NO_ACTIVATION)
        self.check_plain(module.get_submodule(str(node.target)), called)
        if add is not None and _may_change_input(module, graph, node, add):
            raise Unproven("its input may be changed before the sum")
        return _Chain(node, following, found, add)

    def check_plain(self, norm: nn.Module, activation: nn.Module | None) -> None:
        """Raise Unproven if something hangs on the modules of a chain that would be lost."""
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if self.uses[id(norm)] != 1:
            raise Unproven("it is shared")
        if any(getattr(module, hook) for module in (norm, activation) if module for hook in hooks):
            raise Unproven("there are hooks on it or on its activation")

    def convert(self, norm: nn.Module, found: _Found, adds: bool = False) -> None:
        norm.__class__ = FUSED[type(norm)][adds]
        assert isinstance(norm, WithActivation)
        norm._set_activation(*found)
        self.report.fused[self.norms[id(norm)]] = ("add + " if adds else "") + found[0]

    def skip(self, norm: nn.Module, reason: str) -> None:
        self.report.skipped[self.norms[id(norm)]] = reason


def _is_add_of(node: fx.Node, norm: fx.Node) -> bool:
    """Whether the node adds something to the norm's output, and changes at most that."""
    if node.kwargs or len(node.args) != 2 or node.args[0] is node.args[1]:
        return False
    if node.target in (operator.iadd, "add_"):
        return node.args[0] is norm
    return node.target in (operator.add, torch.add, "add") and norm in node.args


def _may_change_input(module: nn.Module, graph: fx.Graph, norm: fx.Node, add: fx.Node) -> bool:
    """Whether a node between a norm and the sum could write into the norm's input.

    Fused, the norm runs where the sum was. Of torch.nn only modules told so write into their inputs.
    """
    nodes = list(graph.nodes)
    for node in nodes[nodes.index(norm) + 1 : nodes.index(add)]:
        if norm.args[0] not in node.all_input_nodes:
            continue
        if node.op == "call_module":
            parts = list(module.get_submodule(str(node.target)).modules())
            harmless = all(
                type(part).__module__.startswith("torch.nn.") and not getattr(part, "inplace", False)
                for part in parts
            )
        else:
            name = getattr(node.target, "__name__", str(node.target))
            in_place = name.endswith("_") or name.startswith("i") or "out" in node.kwargs
            harmless = not in_place and not node.kwargs.get("inplace") and True not in node.args
        if not harmless:
            return True
    return False


def _rewrite(graph: fx.Graph, chain: _Chain) -> None:
    result = chain.norm
    if chain.add is not None:
        with graph.inserting_before(chain.add):
            result = graph.call_module(str(chain.norm.target), (chain.norm.args[0], chain.residual))
    chain.activation.replace_all_uses_with(result)
    graph.erase_node(chain.activation)
    if chain.add is not None:
        graph.erase_node(chain.add)
        graph.erase_node(chain.norm)


def _graph_module(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The recorded module with all that the original holds, called for or not."""
    graph.lint()
    result = fx.GraphModule(module, graph, type(module).__name__)
    for name, value in vars(module).items():
        if name not in vars(result):
            setattr(result, name, value)
    result._parameters, result._buffers = module._parameters, module._buffers
    result._non_persistent_buffers_set = module._non_persistent_buffers_set
    result._modules = module._modules
    result.training = module.training
    return result
