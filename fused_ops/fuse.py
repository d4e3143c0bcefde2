"""``fuse(model)``: the norm (+ residual) + activation (+ pooling) chains of a stock model, fused.

A chain is fused only where that provably computes the same. Between the children of an ``nn.Sequential``
this is plain to see; any other module's forward is recorded and examined (:mod:`fused_ops.recording`). All
else is left alone, with the reason.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fused_ops.activations import ACTIVATIONS
from fused_ops.fuse_patterns import Found, activation_call, activation_module, is_pool_call, is_pool_module
from fused_ops.norm_act.module import (
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    WithActivation,
)
from fused_ops.recording import Unproven, record

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
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

    A 2x2 max-pooling that follows is fused too, unless the activation decreases somewhere. Batch, instance
    and group norm (2d, torch.nn's own) with any activation of :data:`fused_ops.activations.ACTIVATIONS`.
    Parameters, buffers and their names stay. A module in whose forward an add was fused, or an activation or
    pooling called as a function, becomes a ``torch.fx.GraphModule``: a recording of that forward as it was at
    this moment.

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


# --- the fusion ---------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    norm: fx.Node
    activation: fx.Node
    found: Found
    add: fx.Node | None = None
    pool: fx.Node | None = None

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
        children = list(module._modules.items())  # named_children leaves out what comes twice
        for index, ((_, norm), (name, following)) in enumerate(pairwise(children)):
            found = activation_module(following)
            if type(norm) not in FUSED or found is None:
                continue
            try:
                self.check_plain(norm, following)
            except Unproven as reason:
                self.skip(norm, str(reason))
                continue
            pools = [child for child in children[index + 2 : index + 3] if self.may_pool(child[1], found)]
            self.convert(norm, found, pools=bool(pools))
            for replaced, _ in ((name, following), *pools):
                setattr(module, replaced, nn.Identity())

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
            self.convert(norm, chain.found, adds=chain.add is not None, pools=chain.pool is not None)
            name = str(chain.activation.target)
            if (
                chain.add is None
                and chain.pool is None
                and chain.activation.op == "call_module"
                and calls[name] == 1
            ):
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
        found = activation_call(following) if called is None else activation_module(called)
        if found is None:
            raise Unproven(NO_ACTIVATION)
        self.check_plain(module.get_submodule(str(node.target)), called)
        if add is not None and _may_change_input(module, graph, node, add):
            raise Unproven("its input may be changed before the sum")
        return _Chain(node, following, found, add, self.pool_after(module, following, found))

    def pool_after(self, module: nn.Module, activation: fx.Node, found: Found) -> fx.Node | None:
        """The pooling that follows and can be fused."""
        if len(activation.users) != 1:
            return None
        node = next(iter(activation.users))
        if node.op == "call_module":
            fits = self.may_pool(module.get_submodule(str(node.target)), found) and len(node.args) == 1
        else:
            fits = is_pool_call(node) and ACTIVATIONS[found[0]].backward_needs != "input"
        return node if fits and node.args[0] is activation else None

    def may_pool(self, pool: nn.Module, found: Found) -> bool:
        """Whether this module is a pooling that can be fused behind this activation."""
        hooks = any(getattr(pool, hook) for hook in _HOOKS)
        return is_pool_module(pool) and not hooks and ACTIVATIONS[found[0]].backward_needs != "input"

    def check_plain(self, norm: nn.Module, activation: nn.Module | None) -> None:
        """Raise Unproven if something hangs on the modules of a chain that would be lost."""
        if self.uses[id(norm)] != 1:
            raise Unproven("it is shared")
        if any(getattr(module, hook) for module in (norm, activation) if module for hook in _HOOKS):
            raise Unproven("there are hooks on it or on its activation")

    def convert(self, norm: nn.Module, found: Found, adds: bool = False, pools: bool = False) -> None:
        norm.__class__ = FUSED[type(norm)][adds]
        assert isinstance(norm, WithActivation)
        norm._set_activation(*found, pool=2 if pools else 1)
        parts = ["add"] * adds + [found[0]] + ["max-pool"] * pools
        self.report.fused[self.norms[id(norm)]] = " + ".join(parts)

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
    last = chain.activation if chain.pool is None else chain.pool
    last.replace_all_uses_with(result)
    if chain.pool is not None:
        graph.erase_node(chain.pool)
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
