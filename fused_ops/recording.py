"""A module's forward as a graph, and the proof that the graph is all it ever does.

``torch.fx`` records what a forward did for one stand-in of an input. It would record one side of a branch and
never know of the other, nor of what the forward does besides computing, so a recording is believed only if
the forward runs the same way for every input and leaves nothing behind.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import inspect
import operator
import os
import sys
import sysconfig
import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import fx, nn

_BRANCHES = (ast.If, ast.IfExp, ast.While, ast.BoolOp, ast.Assert)
_QUESTIONS = ("isinstance", "issubclass", "type", "hasattr", "callable")
_SEVERAL_WAYS = (ast.Try, ast.Match)
_MORE_THAN_COMPUTING = (ast.With, ast.AsyncWith, ast.Global, ast.Nonlocal)
_TORCH = str(Path(torch.__file__).parent) + os.sep
# What runs functions otherwise than written, of which a recording would know nothing.
_TOLD_OF = tuple(
    _TORCH + os.path.join(*path) for path in (("utils", "checkpoint.py"), ("autograd", "graph.py"))
)


class Unproven(Exception):
    """Why something about a model cannot be relied upon."""


class Recording(NamedTuple):
    """A module's forward, and the numbers, texts and Nones among the module's attributes that it was recorded
    with, by their dotted names."""

    graph: fx.Graph
    read: tuple[tuple[str, Any], ...]


def record(module: nn.Module) -> Recording:
    """The module's forward, with its children as black boxes.

    The forward runs twice, and what it does besides computing it does to the module: hand over a copy.

    Raises:
        Unproven: it cannot be recorded, or may do something else than recorded: it has optional arguments,
            differs between training and evaluation, runs code whose branches ask for more than attributes
            of ``self``, changes the module or what it holds, or does a part of its work in a context such as
            ``torch.no_grad``.
    """
    if "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
        raise Unproven("the forward it is called in is not its class's own")
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise Unproven("the forward it is called in has optional arguments")
    graphs: list[fx.Graph] = []
    training = {child: child.training for child in module.modules()}
    before = list(_held(module))
    with _called_code(module) as codes:
        try:
            for mode in (True, False):
                module.train(mode)
                graphs.append(_Tracer().trace(module))
        except Unproven:
            raise
        except Exception as error:  # whatever a forward raises when it meets a stand-in
            kind = type(error).__name__
            raise Unproven(f"torch.fx cannot record the forward it is called in ({kind})") from None
        finally:
            for child, was_training in training.items():
                child.training = was_training
    if str(graphs[0]) != str(graphs[1]):
        raise Unproven("the forward it is called in differs between training and evaluation")
    read: dict[str, Any] = {}
    for code, name in codes.items():
        tree, decisions = _check_code(code)
        if name is None:
            continue
        asked = {path for decision in decisions for path in _paths(decision, name)}
        for path in _paths(tree, name):
            value = plain(module, path)
            if value is not OTHER and (value is not MODULE or path in asked):
                read[path] = value
    read.pop("training", None)  # it makes no difference, as was just seen
    if not _is_same(before, list(_held(module))):
        raise Unproven("the forward it is called in changes more than what it returns")
    for node in graphs[0].nodes:
        node.type = None  # annotations written as text would keep the graph's code from being pickled
    return Recording(graphs[0], tuple(sorted(read.items())))


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        # Not even math: torch._dynamo, where a forward imports it, would keep what fx puts in its place.
        nothing: Any = ()
        super().__init__(autowrap_modules=nothing)
        self.modes = _modes()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return True

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self.modes:
            raise Unproven("a part of the forward it is called in runs in a context of its own")
        return super().create_node(*args, **kwargs)


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
        for attribute, value in vars(child).items():
            if attribute != "training":
                yield from _opened(f"{name}.{attribute}", value, 0)


def _opened(where: str, value: object, depth: int) -> Iterator[Held]:
    versioned = isinstance(value, torch.Tensor) and not value.is_inference()
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


@contextlib.contextmanager
def _called_code(module: nn.Module) -> Iterator[dict[CodeType, str | None]]:
    """Collects the Python code that runs within the context, torch, standard library and this file aside.

    With each goes what it calls the module, if that is its first argument.
    """
    called: dict[CodeType, str | None] = {}
    standard_library = sysconfig.get_path("stdlib") + os.sep

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event != "call" or file == __file__:
            return
        # In angle brackets: Python's own start, and straight code that fx wrote.
        if file.startswith((_TORCH, "<frozen", "<eval_with_key>")) and file not in _TOLD_OF:
            return
        if file == "<string>" and frame.f_code.co_names == ("_tuple_new",):
            return  # a named tuple is made
        if not file.startswith(standard_library) or "-packages" in file:
            first = frame.f_code.co_varnames[0] if frame.f_code.co_argcount else ""
            called[frame.f_code] = first if frame.f_locals.get(first) is module else None

    previous, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # callbacks of the garbage collector (hypothesis has one) are no part of the forward
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(previous)
        if collecting:
            gc.enable()


def _check_code(code: CodeType) -> tuple[ast.AST, list[ast.AST]]:
    """The code's tree, and what in it decides on its way."""
    name = code.co_name
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError):
        raise Unproven(f"the source of {name}, which runs in the forward, is not at hand") from None
    decisions: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, _SEVERAL_WAYS):
            raise Unproven(f"{name}, which runs in the forward, may run in several ways")
        if isinstance(node, _MORE_THAN_COMPUTING) or _calls(node) == "print":
            raise Unproven(f"{name}, which runs in the forward, does more than compute")
        tests: list[Any] = []
        if isinstance(node, ast.comprehension):
            tests = node.ifs
        elif isinstance(node, _BRANCHES):
            tests = [getattr(node, "test", node)]
        elif isinstance(node, ast.Call) and _calls(node) in _QUESTIONS:
            tests = list(node.args)
        elif isinstance(node, ast.Compare) and any(isinstance(o, ast.Is | ast.IsNot) for o in node.ops):
            tests = [node]
        if not all(map(_asks_only_self, tests)):
            raise Unproven(f"{name}, which runs in the forward, branches on more than attributes")
        decisions += tests
    return tree, decisions


def _paths(tree: ast.AST, name: str) -> Iterator[str]:
    """The attributes of ``name`` that are read, as ``"conv.weight.shape"``."""
    for node in ast.walk(tree):
        path, value = [], node
        while isinstance(value, ast.Attribute):
            path.append(value.attr)
            value = value.value
        if path and isinstance(value, ast.Name) and value.id == name:
            yield ".".join(reversed(path))


OTHER, MODULE = "<anything else>", "<a module>"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def plain(module: nn.Module, path: str) -> Any:
    """An attribute's value if that is plain (a number, text, None, dtype or tuple of such), MODULE for a
    module, OTHER for all else."""
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, OTHER)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return MODULE
    if isinstance(value, tuple | list):
        inside = tuple(map(_plain, value))
        return OTHER if OTHER in inside else inside
    return value if type(value) in _PLAIN else OTHER


def _calls(node: ast.AST) -> str | None:
    """The plain name that is called here, if that is what happens."""
    return getattr(node.func, "id", None) if isinstance(node, ast.Call) else None


def _asks_only_self(test: ast.AST) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    return names <= {"self"} and not any(isinstance(node, ast.Call) for node in ast.walk(test))
