"""A module's forward as a graph, and the proof that the graph is all it ever does.

``torch.fx`` records what a forward did for one stand-in of an input. It would record one side of a branch and
never know of the other, nor of what the forward does besides computing, so a recording is believed only if
the forward runs the same way for every input and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import operator
import os
import random
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from fused_ops import straight_code
from fused_ops.around import around
from fused_ops.straight_code import (
    MODULE,
    OTHER,
    SAME,
    TENSOR,
    Unproven,
    check_code,
    paths,
    plain,
    plain_attribute,
)

_TORCH = str(Path(torch.__file__).parent) + os.sep
_STANDARD = sysconfig.get_path("stdlib") + os.sep
# What runs functions otherwise than written, of which a recording would know nothing.
_TOLD_OF = (
    _TORCH + os.path.join("utils", "checkpoint.py"),
    _TORCH + os.path.join("autograd", "graph.py"),
)
_OURS = (__file__, straight_code.__file__)
# torch.fx, and what is watched here, put something in the place of nn.Module's own methods while they record,
# and back what they found there: of two threads that did, one would leave the other's for good.
_ONE_AT_A_TIME = threading.RLock()
_TOLD_OF_AT_ONCE = (_STANDARD + "functools.py", _STANDARD + "copy.py")  # torch uses these too


class Recording(NamedTuple):
    """A module's forward, and the attributes that it read, by their dotted names, in plain form. What has
    several names has one in the graph, so ``"act2 is act1"`` is among them, too; and what the code that ran
    found around it, as :func:`fused_ops.around.around` writes it."""

    graph: fx.Graph
    read: tuple[tuple[str, Any], ...]


def record(module: nn.Module) -> Recording:
    """The module's forward, with its children as black boxes.

    The forward runs twice, and what it does besides computing it does to the module: hand over a copy.

    Raises:
        Unproven: it cannot be recorded, or may do something else than recorded: it has optional arguments,
            differs between training and evaluation, does a part of its work in a context such as
            ``torch.no_grad``, or runs code that :mod:`fused_ops.straight_code` refuses.
    """
    forward = inspect.unwrap(type(module).forward)
    if "forward" in vars(module) or not inspect.isfunction(forward):
        raise Unproven("the forward it is called in is not its class's own")
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise Unproven("the forward it is called in has optional arguments")
    if any(p.kind is p.KEYWORD_ONLY for p in parameters):  # a recording would take them by position, too
        raise Unproven("the forward it is called in has arguments that are given by keyword alone")
    if _is_looked_into(forward.__code__):
        check_code(forward.__code__, {**forward.__globals__, **inspect.getclosurevars(forward).nonlocals})
    graphs: list[fx.Graph] = []
    training = {child: child.training for child in module.modules()}
    before = list(_held(module))
    seen = _Seen()
    try:
        for mode in (True, False):
            module.train(mode)
            set_to = [child.training for child in module.modules()]
            with _ONE_AT_A_TIME, _by_itself(), _DrawingNothing(), _watched(module, seen):
                graphs.append(_Tracer().trace(module))
            if [child.training for child in module.modules()] != set_to:
                raise Unproven(_CHANGES)
    except Unproven:
        raise
    except Exception as error:  # whatever a forward raises when it meets a stand-in
        kind = type(error).__name__
        raise Unproven(f"torch.fx cannot record the forward it is called in ({kind})") from None
    finally:
        for child, was_training in training.items():
            child.training = was_training
    read = dict(seen.read)
    for code, (name, names) in seen.codes.items():
        tree, decisions = check_code(code, names)
        read |= around(tree, code, names, type(module))
        if name is None:
            continue
        asked = {path for decision in decisions for path in paths(decision, name)}
        for path in paths(tree, name):
            value = plain(module, path)
            if value not in (OTHER, TENSOR, MODULE) or (value == MODULE and path in asked):
                read[path] = value
    if str(graphs[0]) != str(graphs[1]):
        raise Unproven("the forward it is called in differs between training and evaluation")
    read.pop("training", None)  # it makes no difference, as was just seen
    for path, value in read.items():
        if value is OTHER:
            raise Unproven(f"the forward it is called in reads {path}, which cannot be watched")
    if not _is_same(before, list(_held(module))):
        raise Unproven(_CHANGES)
    for node in graphs[0].nodes:
        node.type = None  # annotations written as text would keep the graph's code from being pickled
    read.update((f"{name}{SAME}{other}", True) for name, other in _of_several_names(module, graphs[0]))
    return Recording(graphs[0], tuple(sorted(read.items())))


_CHANGES = "the forward it is called in changes more than what it returns"


def _of_several_names(module: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """The other names of the modules and tensors in the graph, and the one that they have there."""
    named: dict[int, tuple[object, list[str]]] = {}  # held, as those of TorchScript are made when asked for
    for find in (module.named_modules, module.named_parameters, module.named_buffers):
        for name, part in find(remove_duplicate=False):
            named.setdefault(id(part), (part, []))[1].append(name)
    used = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    for _, names in named.values():
        for target in used.intersection(names):
            yield from ((name, target) for name in names if name != target)


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Leave all modes within. That of ``torch.device`` would write its device into each call that makes a
    tensor, where it is the one in force when the forward runs that counts."""
    with contextlib.ExitStack() as left:
        while torch._C._len_torch_function_stack():
            left.enter_context(_pop_mode_temporarily())
        yield


class _DrawingNothing(TorchDispatchMode):
    """Raises Unproven where random numbers would be drawn, which are left to be drawn by others.

    Other threads draw meanwhile, so the generators' states would tell nothing.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise Unproven(_CHANGES)
        return function(*args, **(kwargs or {}))


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        # Not even math: torch._dynamo, where a forward imports it, would keep what fx puts in its place.
        nothing: Any = ()
        super().__init__(autowrap_modules=nothing)
        self.proxy_buffer_attributes = True
        self.modes = _modes()
        self.thread = threading.get_ident()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return True

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self.modes:
            raise Unproven("a part of the forward it is called in runs in a context of its own")
        return super().create_node(kind, *args, **kwargs)

    def call_module(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:  # which uses another model meanwhile
            return forward(*args, **kwargs)
        if any(isinstance(value, dict | list | set) for value in (*args, *kwargs.values())):
            raise Unproven("the forward it is called in hands a container to a module, which may fill it")
        return super().call_module(module, forward, args, kwargs)

    def create_arg(self, value: Any) -> Any:
        usual = type(value) in (dict, list, tuple, slice, torch.Size) or hasattr(value, "_fields")
        if (
            isinstance(value, dict | list | tuple)
            and not usual
            and type(value).__module__ != fx.immutable_collections.__name__
        ):
            raise Unproven(f"the forward it is called in makes a {type(value).__name__}")
        return super().create_arg(value)


class _Proxy(fx.Proxy):
    """A stand-in for which ``x += y`` is what it is, and not ``x = x + y``, as torch.fx has it."""


def _in_place(operation: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(_Proxy, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))


def _modes() -> tuple[Any, ...]:
    """What a context manager or decorator may have set that a recording would not set again."""
    autocast = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
        *autocast,
    )


Held = tuple[str, object, int]


def _held(module: nn.Module) -> Iterator[Held]:
    """All that a module and its children hold, containers opened: where, what, and a tensor's version."""
    for name, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):  # makes what it shows anew, and is not run here
            continue
        for attribute, value in vars(child).items():
            if attribute != "training":
                yield from _opened(f"{name}.{attribute}", value, 0)


def _opened(where: str, value: object, depth: int) -> Iterator[Held]:
    versioned = isinstance(value, torch.Tensor) and not is_lazy(value) and not value.is_inference()
    yield where, value, value._version if versioned else 0  # type: ignore[attr-defined]
    if depth < 8 and isinstance(value, dict):
        for key, inner in value.items():
            yield from _opened(f"{where}.{key}", inner, depth + 1)
    elif depth < 8 and isinstance(value, list | tuple | set | frozenset | deque):
        for place, inner in enumerate(value):
            yield from _opened(f"{where}.{place}", inner, depth + 1)


def _is_same(before: list[Held], after: list[Held]) -> bool:
    return len(before) == len(after) and all(
        a[0] == b[0] and a[1] is b[1] and a[2] == b[2] for a, b in zip(before, after, strict=True)
    )


class _Seen:
    """The Python code that ran, without torch's own and most of the standard library, with what it calls the
    module (if that is its first argument) and what its other names stand for; and the attributes of the
    module and its children that this code read."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, tuple[str | None, dict[str, Any]]] = {}
        self.read: dict[str, Any] = {}
        self.problem: Unproven | None = None


@contextlib.contextmanager
def _watched(module: nn.Module, seen: _Seen) -> Iterator[None]:
    names = {child: name for name, child in module.named_modules()}
    of_python, drawn = random.getstate(), False

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal drawn
        code = frame.f_code
        if event == "c_call" and isinstance(getattr(argument, "__self__", None), random.Random):
            drawn = True
        if event != "call":
            return
        caller = frame.f_back.f_code if frame.f_back is not None else None
        if _is_looked_into(code) or (code.co_filename in _TOLD_OF_AT_ONCE and caller in seen.codes):
            arguments = {name: frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]}
            first = next(iter(arguments), None)
            own = first if first is not None and arguments[first] is module else None
            if any(isinstance(value, nn.Module) and value is not module for value in arguments.values()):
                seen.problem = Unproven(f"{code.co_name}, which runs in the forward, is given a module")
            if code in seen.codes:
                return
            enclosed = {name: frame.f_locals[name] for name in code.co_freevars if name in frame.f_locals}
            seen.codes[code] = own, {**frame.f_globals, **enclosed}

    def read(owner: nn.Module, name: str) -> Any:
        value = object.__getattribute__(owner, name)
        if sys._getframe(1).f_code in seen.codes and owner in names and not inspect.ismethod(value):
            path = f"{names[owner]}.{name}".lstrip(".")
            seen.read[path] = plain_attribute(name, value)
        return value

    previous, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # callbacks of the garbage collector (hypothesis has one) are no part of the forward
    sys.setprofile(note)
    reading: Any = nn.Module
    reading.__getattribute__ = read
    try:
        yield
    finally:
        del reading.__getattribute__
        sys.setprofile(previous)
        if collecting:
            gc.enable()
        if drawn:
            random.setstate(of_python)
    if drawn:
        raise Unproven(_CHANGES)
    if seen.problem is not None:
        raise seen.problem


def _is_looked_into(code: CodeType) -> bool:
    file = code.co_filename
    if file in _TOLD_OF:
        return True
    # In angle brackets: Python's own start, and straight code that fx wrote.
    if file in _OURS or file.startswith((_TORCH, "<frozen", "<eval_with_key>")):
        return False
    if file == "<string>" and code.co_names == ("_tuple_new",):
        return False  # a named tuple is made
    return not file.startswith(_STANDARD) or "-packages" in file
