"""A module's forward as a graph, and the proof that the graph is all it ever does.

``torch.fx`` records what a forward did for one stand-in of an input. It would record one side of a branch and
never know of the other, so a recording is believed only if the forward runs the same way for every input.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

_BRANCHES = (ast.If, ast.IfExp, ast.While, ast.BoolOp, ast.Assert)
_QUESTIONS = ("isinstance", "issubclass", "type", "hasattr", "callable")


class Unproven(Exception):
    """Why something about a model cannot be relied upon."""


def record(module: nn.Module) -> fx.Graph:
    """The module's forward, with its children as black boxes.

    Raises:
        Unproven: it cannot be recorded, or may do something else than recorded: it has optional arguments,
            differs between training and evaluation, or runs code whose branches ask for more than attributes
            of ``self``.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise Unproven("the forward it is called in has optional arguments")
    graphs: list[fx.Graph] = []
    training = {child: child.training for child in module.modules()}
    with _called_code() as codes:
        try:
            for mode in (True, False):
                module.train(mode)
                graphs.append(_Tracer().trace(module))
        except Exception as error:  # whatever a forward raises when it meets a stand-in
            kind = type(error).__name__
            raise Unproven(f"torch.fx cannot record the forward it is called in ({kind})") from None
        finally:
            for child, was_training in training.items():
                child.training = was_training
    if str(graphs[0]) != str(graphs[1]):
        raise Unproven("the forward it is called in differs between training and evaluation")
    for code in codes:
        _check_branches(code)
    for node in graphs[0].nodes:
        node.type = None  # annotations written as text would keep the graph's code from being pickled
    return graphs[0]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return True


@contextlib.contextmanager
def _called_code() -> Iterator[set[CodeType]]:
    """Collects the Python code that runs within the context, torch, standard library and this file aside."""
    called: set[CodeType] = set()
    torch_folder, standard_library = str(Path(torch.__file__).parent), sysconfig.get_path("stdlib")

    def note(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event != "call" or file.startswith((torch_folder, "<")) or file == __file__:
            return
        if not file.startswith(standard_library) or "site-packages" in file:
            called.add(frame.f_code)

    previous, collecting = sys.getprofile(), gc.isenabled()
    gc.disable()  # callbacks of the garbage collector (hypothesis has one) are no part of the forward
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(previous)
        if collecting:
            gc.enable()


def _check_branches(code: CodeType) -> None:
    name = code.co_name
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError):
        raise Unproven(f"the source of {name}, which runs in the forward, is not at hand") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.Match):
            raise Unproven(f"{name}, which runs in the forward, may run in several ways")
        tests: list[Any] = []
        if isinstance(node, ast.comprehension):
            tests = node.ifs
        elif isinstance(node, _BRANCHES):
            tests = [getattr(node, "test", node)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in _QUESTIONS:
            tests = list(node.args)
        elif isinstance(node, ast.Compare) and any(isinstance(o, ast.Is | ast.IsNot) for o in node.ops):
            tests = [node]
        if not all(map(_asks_only_self, tests)):
            raise Unproven(f"{name}, which runs in the forward, branches on more than attributes")


def _asks_only_self(test: ast.AST) -> bool:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    return names <= {"self"} and not any(isinstance(node, ast.Call) for node in ast.walk(test))
