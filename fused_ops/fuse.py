"""``fuse(model)``: the norm (+ residual) + activation (+ pooling) chains of a stock model, fused.

A chain is fused only where that provably computes the same. Between the children of an ``nn.Sequential``
this is plain to see; any other module's forward is recorded and examined (:mod:`fused_ops.recording`). All
else is left alone, with the reason. What is exchanged is the forward of the module that calls the chain's
parts, and nothing else, so that whoever calls them elsewhere, or looks at them, finds what was there.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fused_ops.activations import ACTIVATIONS
from fused_ops.fuse_chain import NORMS, FusedSequential, can_pool, chain_at, is_plain, is_torchs, run_chain
from fused_ops.fuse_patterns import Found, activation_call, activation_module, is_pool_call
from fused_ops.norm_act.module import WithActivation
from fused_ops.recorded import Recorded, extended_class, recorded_class
from fused_ops.recording import record
from fused_ops.straight_code import Unproven

NO_ACTIVATION = "no activation of the table follows it directly"
WRITTEN_BY_FX = "torch.fx wrote the forward it is called in; fuse a model before that"
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


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
    """Run norm + activation and norm + add + activation as one op each; results stay the same.

    A 2x2 max-pooling that follows is fused too, unless the activation decreases somewhere. Batch, instance
    and group norm (2d, torch.nn's own) with any activation of :data:`fused_ops.activations.ACTIVATIONS`; an
    ``nn.Identity`` behind the norm is passed over.

    All modules, parameters, buffers and their names stay, hooks run, and a chain goes torch's own way as soon
    as something hangs on its modules. An ``nn.Sequential`` with a chain becomes a :class:`FusedSequential`;
    any other module that calls one gets a subclass of its class whose forward is a recording of the one that
    it had. Where something has changed that this one had found (an attribute, a method, a name of its file),
    it runs again itself.

    Five things differ: the output of an instance norm has its input's memory format, where torch's own is
    always contiguous; a norm is called, and its hooks run, after what is added to it was computed;
    ``torch.jit.script`` takes no fused ``nn.Sequential``; a model that is pickled whole takes its recorded
    forwards along, where others find what their classes have by then; and among what a chain keeps for its
    backward, where writing into it raises, may be its output (it pools, or adds before leaky_relu or elu) or
    what it adds (before silu, gelu or hardswish).

    Other threads may use and fuse their models meanwhile, except that calls of compiled ones raise there, as
    they do while torch.fx records anything.

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
    return Fused(fusion.run(untouched=() if inplace else set(model.modules())), fusion.report)


# --- the fusion ---------------------------------------------------------------------------------------------


@dataclass
class _Chain:
    norm: fx.Node
    activation: fx.Node
    found: Found
    add: fx.Node | None = None
    pool: fx.Node | None = None
    passed: tuple[fx.Node, ...] = ()

    @property
    def residual(self) -> Any:
        assert self.add is not None
        normed = (self.norm, *self.passed)[-1]
        return self.add.args[1] if self.add.args[0] is normed else self.add.args[0]


class _Fusion:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.report = FuseReport()
        self.norms: dict[nn.Module, str] = {}
        for name, module in model.named_modules():
            if type(module) in NORMS:
                self.norms[module] = name or "the model"
            elif isinstance(module, _NORMS) and not isinstance(module, WithActivation):
                reason = f"there is no fused form of {type(module).__name__}"
                self.report.skipped[name or "the model"] = reason
        self.twins: dict[nn.Module, nn.Module] | None = None

    def run(self, untouched: Container[nn.Module] = ()) -> nn.Module:
        for module in list(self.model.modules()):
            if module in untouched:
                self.skip_all(module, "the module that calls it would not be copied")
            elif isinstance(module, FusedSequential | Recorded):
                self.skip_all(module, "the module that calls it is fused already")
            elif isinstance(module, fx.GraphModule):  # has ways of its own to be copied and to get a forward
                self.skip_below(module, WRITTEN_BY_FX)
            elif isinstance(module, torch.jit.ScriptModule):
                continue  # its norms are TorchScript's, and its class has no forward that could be looked at
            elif type(module).forward is nn.Sequential.forward:
                self.fuse_sequential(module)
            elif not isinstance(module, nn.ModuleList | nn.ModuleDict):
                self.fuse_forward(module)
        for norm, name in self.norms.items():
            if name in self.report.fused:
                self.report.skipped.pop(name, None)
            else:
                self.skip(norm, NO_ACTIVATION)
        return self.model

    def fuse_sequential(self, module: nn.Module) -> None:
        if "forward" in vars(module):
            self.skip_all(module, "the forward it is called in is not its class's own")
            return
        kind: Any = type(module)
        if kind.__iter__ is not nn.Sequential.__iter__:  # torch's forward goes by it
            self.skip_all(module, "the Sequential it is in does not call one module after the other")
            return
        fused = False
        children: list[Any] = list(module._modules.values())  # children() leaves out what comes twice
        for place in range(len(children)):
            chain = chain_at(children, place)
            if chain is None:
                continue
            try:
                check_plain(chain.norm, chain.activation, *chain.passed)
            except Unproven as reason:
                self.skip(chain.norm, str(reason))
                continue
            fused = True
            found = activation_module(children[place + 1 + len(chain.passed)])
            self.note(chain.norm, found, pools=bool(chain.pool))

        if fused:
            own = kind is nn.Sequential
            _become(module, FusedSequential if own else extended_class(kind, FusedSequential.forward))

    def fuse_forward(self, module: nn.Module) -> None:
        if not any(below in self.norms for below in module.modules() if below is not module):
            return
        try:
            graph, read = record(self.twin(module))
            chains = self.chains(module, graph)
            if not chains:
                return
            _become(module, _rewritten(module, graph, read, chains))
        except Unproven as reason:
            self.twins = None  # there may be something left in them
            self.skip_all(module, str(reason))
            return
        for chain in chains:
            norm = module.get_submodule(str(chain.norm.target))
            self.note(norm, chain.found, adds=chain.add is not None, pools=chain.pool is not None)

    def twin(self, module: nn.Module) -> nn.Module:
        """The module in a copy of the model, where a forward may do what it likes.

        Raises:
            Unproven: there is no copy to be had.
        """
        if self.twins is None:
            try:
                copied = copy.deepcopy(self.model)
                self.twins = dict(zip(self.model.modules(), copied.modules(), strict=True))
            except Exception as error:  # whatever a module that cannot be copied raises
                raise Unproven(f"the model cannot be copied ({type(error).__name__})") from None
        return self.twins[module]

    def chains(self, module: nn.Module, graph: fx.Graph) -> list[_Chain]:
        chains: list[_Chain] = []
        for node in graph.nodes:
            if node.op != "call_module" or (norm := module.get_submodule(str(node.target))) not in self.norms:
                continue
            try:
                chain = self.chain(module, graph, node)
                if any(chain.activation is other.activation for other in chains):
                    raise Unproven("what follows is fused with another norm")
                chains.append(chain)
            except Unproven as reason:
                self.skip(norm, str(reason))
        return chains

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
        passed: tuple[fx.Node, ...] = ()
        while len(following.users) == 1 and _is_identity(module, following):
            passed += (following,)
            following = next(iter(following.users))
        add = following if _is_add_of(following, (node, *passed)[-1]) else None
        if add is not None:
            if len(add.users) != 1:
                raise Unproven("the sum of its output and another is used more than once")
            following = next(iter(add.users))
        called = module.get_submodule(str(following.target)) if following.op == "call_module" else None
        found = activation_call(following) if called is None else activation_module(called)
        if found is None:
            raise Unproven(NO_ACTIVATION)
        check_plain(*(module.get_submodule(str(part.target)) for part in (node, *passed)), called)
        if _may_change_input(module, graph, node, following if add is None else add):
            raise Unproven("its input may be changed before what follows")
        return _Chain(node, following, found, add, self.pool_after(module, following, found), passed)

    def pool_after(self, module: nn.Module, activation: fx.Node, found: Found) -> fx.Node | None:
        """The pooling that follows and can be fused."""
        if len(activation.users) != 1:
            return None
        node = next(iter(activation.users))
        if node.op == "call_module":
            pool = module.get_submodule(str(node.target))
            fits = can_pool(pool, found) and len(node.args) == 1
        else:
            fits = is_pool_call(node) and ACTIVATIONS[found[0]].backward_needs != "input"
        return node if fits and node.args[0] is activation else None

    def note(self, norm: nn.Module, found: Found | None, adds: bool = False, pools: bool = False) -> None:
        assert found is not None
        parts = ["add"] * adds + [found[0]] + ["max-pool"] * pools
        self.report.fused[self.norms[norm]] = " + ".join(parts)

    def skip(self, norm: nn.Module, reason: str) -> None:
        self.report.skipped.setdefault(self.norms[norm], reason)

    def skip_below(self, module: nn.Module, reason: str) -> None:
        for below in module.modules():
            if below in self.norms:
                self.skip(below, reason)

    def skip_all(self, module: nn.Module, reason: str) -> None:
        for child in module.children():
            if child in self.norms:
                self.skip(child, reason)
            elif isinstance(child, nn.ModuleList | nn.ModuleDict):
                self.skip_all(child, reason)


def check_plain(*parts: object) -> None:
    """Raise Unproven if something hangs on the modules of a chain, or took the place of their forwards."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if not all(is_torchs(type(part)) for part in modules):
        raise Unproven("its class, or that of its activation, has another forward than torch gave it")
    if not all(map(is_plain, modules)):
        raise Unproven("there are hooks on it or on its activation")


def _is_identity(module: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity


def _is_add_of(node: fx.Node, norm: fx.Node) -> bool:
    """Whether the node adds something to the norm's output, and changes at most that."""
    if node.kwargs or len(node.args) != 2 or node.args[0] is node.args[1]:
        return False
    if (node.op, node.target) in (("call_function", operator.iadd), ("call_method", "add_")):
        return node.args[0] is norm
    adds = (("call_function", operator.add), ("call_function", torch.add), ("call_method", "add"))
    return (node.op, node.target) in adds and norm in node.args


def _may_change_input(module: nn.Module, graph: fx.Graph, norm: fx.Node, until: fx.Node) -> bool:
    """Whether a node between a norm and what follows could write into the norm's input, or use the norm.

    Fused, the norm runs where that was. What a convolution made is nobody else's memory, so only what was
    computed from it needs a look; any other input may be a view of whatever there is.
    """
    source, called = norm.args[0], module.get_submodule(str(norm.target))
    fresh = (
        isinstance(source, fx.Node)
        and source.op == "call_module"
        and isinstance(module.get_submodule(str(source.target)), _CONVOLUTIONS)
    )
    related, between = {source}, False
    for node in graph.nodes:
        if node is until:
            return False
        if node is norm:
            between = True
            continue
        touches = not related.isdisjoint(node.all_input_nodes)
        if touches:
            related.add(node)
        if between and node.op == "get_attr" and str(node.target).startswith(f"{norm.target}."):
            return True
        if (
            between
            and node.op == "call_module"
            and called in module.get_submodule(str(node.target)).modules()
        ):
            return True
        if between and (touches or not fresh) and not _is_harmless(module, node):
            return True
    return True


def _is_harmless(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node surely writes into nothing that was there. Of torch.nn only modules told so do."""
    if node.op == "call_module":
        return all(
            type(part).__module__.startswith("torch.nn.") and not getattr(part, "inplace", False)
            for part in module.get_submodule(str(node.target)).modules()
        )
    if node.op not in ("call_function", "call_method"):
        return True
    name = getattr(node.target, "__name__", str(node.target))
    in_place = name.endswith("_") or name.startswith("i") or "set" in name or "out" in node.kwargs
    return not in_place and not node.kwargs.get("inplace") and True not in node.args


def _rewritten(
    module: nn.Module, graph: fx.Graph, read: tuple[tuple[str, Any], ...], chains: list[_Chain]
) -> type[nn.Module]:
    """The module's class with the chains in its forward fused.

    Raises:
        Unproven: there can be none.
    """
    try:
        for chain in chains:
            _rewrite(graph, chain)
        graph.lint()
        kind = recorded_class(type(module), graph, read)
        object.__new__(type(module)).__class__ = kind  # a layout of its own would show here
    except Exception as error:  # whatever a metaclass, or a graph that no one has thought of, raises
        raise Unproven(f"the forward it is called in cannot be exchanged ({type(error).__name__})") from None
    return kind


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    object.__setattr__(module, "__class__", kind)  # not by a __setattr__ of its own


def _rewrite(graph: fx.Graph, chain: _Chain) -> None:
    """Put one call in the place of a chain's nodes."""

    def part(node: fx.Node | None, otherwise: Any) -> Any:
        return otherwise if node is None or node.op != "call_module" else graph.get_attr(str(node.target))

    last = chain.activation if chain.pool is None else chain.pool
    with graph.inserting_before(chain.activation if chain.add is None else chain.add):
        modules = (
            part(chain.norm, None),
            part(chain.activation, chain.found),
            part(chain.pool, chain.pool is not None),
        )
        arguments: tuple[Any, ...] = (*modules, chain.norm.args[0])
        if chain.add is not None:
            kind = "iadd" if chain.add.target in (operator.iadd, "add_") else "add"
            arguments = (*arguments, kind, chain.residual)
        named: dict[str, Any] = {}
        if chain.passed:
            named["passed"] = tuple(part(node, None) for node in chain.passed)
        result = graph.call_function(run_chain, arguments, named)
    last.replace_all_uses_with(result)
    for node in (chain.pool, chain.activation, chain.add, *reversed(chain.passed), chain.norm):
        if node is not None:
            graph.erase_node(node)
