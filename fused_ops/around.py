"""What code finds around it, in modules and classes, and a recording of it would keep: is it still there?

A forward goes by names of its file (a constant, a function that helps), by attributes of modules and
classes (``F.relu``, ``Settings.scale``) and by methods of the classes that its own is made from. A recording
holds what they stood for; they are cheap to look up again, which each call of it does.
"""

from __future__ import annotations

import ast
import enum
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from fused_ops.straight_code import CONSTANTS, METHOD, OTHER, Unproven, body

Around = tuple[tuple[Any, str, Any], ...]  # whose attribute, its name, and what it is

_SUPER = "super()"
_MARK = ":"


def around(tree: ast.AST, code: CodeType, names: Mapping[str, Any], base: type) -> Iterator[tuple[str, Any]]:
    """What the code uses, as ``"package.module:Class.name"`` with its :func:`_kind`, and ``"super():name"``.

    Raises:
        Unproven: something may change there, and nobody would see it.
    """
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    for node in body(tree):
        path = _dotted(node)
        if path[:1] == [_SUPER]:
            yield _MARK.join(path[:2]), tuple(_kind(method) for _, _, method in _inherited(base, path[1]))
            continue
        if not path or path[0] in own or path[0] not in names:
            continue
        module, within, value = str(names.get("__name__")), path[:1], names[path[0]]
        for name in path[1:]:
            if isinstance(value, ModuleType) and sys.modules.get(value.__name__) is value:
                module, within = value.__name__, []
            elif isinstance(value, FunctionType):
                value = OTHER
                break
            elif not isinstance(value, ModuleType | type):
                break  # of a constant
            within = [*within, name]
            value = getattr(value, name, OTHER)
        if isinstance(value, ModuleType):
            continue
        place = f"{module}{_MARK}{'.'.join(within)}"
        if _kind(value) == OTHER or not is_still(_look_up(place)[2], value):
            written = ".".join(path)
            raise Unproven(f"{code.co_name}, which runs in the forward, uses {written}, which may change")
        yield place, _kind(value)


def _dotted(node: ast.AST) -> list[str]:
    """``a.b.c`` as a list; an empty one for other expressions."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
        return [_SUPER, *path] if path else []
    return [node.id, *path] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else []


def found_around(base: type, read: Iterable[tuple[str, Any]]) -> Around | None:
    """What stands now where :func:`around` looked, or None if that is not what stood there then."""
    found: list[tuple[Any, str, Any]] = []
    for path, kind in read:
        first, _, name = path.partition(_MARK)
        if not name:
            continue
        now = _inherited(base, name) if first == _SUPER else [_look_up(path)]
        kinds = tuple(_kind(value) for _, _, value in now)
        if kind != (kinds if first == _SUPER else kinds[0]):
            return None
        found += now
    return tuple(found)


def _inherited(base: type, name: str) -> list[tuple[Any, str, Any]]:
    """What the classes that ``base`` is made from have by a name."""
    return [(owner, name, getattr(owner, name)) for owner in base.__mro__ if name in vars(owner)]


def is_around(path: str) -> bool:
    """Whether a path leads out of the module, and is not one of its attributes."""
    return _MARK in path


def is_still(now: Any, value: Any) -> bool:
    """Whether what is found is the same. A tensor is not the number that it equals."""
    if now is value:
        return True
    if type(now) is not type(value):
        return False
    if isinstance(value, tuple):
        return len(now) == len(value) and all(map(is_still, now, value))
    return bool(now == value)


def _look_up(path: str) -> tuple[Any, str, Any]:
    module, _, names = path.partition(_MARK)
    *within, name = names.split(".")
    owner: Any = sys.modules.get(module)
    for part in within:
        owner = getattr(owner, part, None)
    return owner, name, getattr(owner, name, OTHER)


def _kind(value: Any) -> Any:
    """A form that can be compared, kept and pickled: a constant itself, and what others are called. OTHER for
    what may change while it stays the same object."""
    if type(value) in CONSTANTS:
        return value
    if isinstance(value, tuple):
        inside = tuple(map(_kind, value))
        return OTHER if OTHER in inside else inside
    if isinstance(value, nn.Module | torch.Tensor):
        return OTHER
    if inspect.isroutine(value) or isinstance(value, type):
        return METHOD, *(getattr(value, name, None) for name in ("__module__", "__qualname__", "__name__"))
    of_torch = type(value).__module__.split(".")[0] in ("torch", "typing")
    return (METHOD, repr(value)) if of_torch or isinstance(value, enum.Enum) else OTHER
