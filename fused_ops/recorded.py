"""Classes of modules whose forward is a recorded graph; copied, pickled and compiled as any other."""

from __future__ import annotations

import functools
import importlib
import linecache
from collections.abc import Callable
from itertools import count
from types import ModuleType
from typing import Any

from torch import fx, nn

from fused_ops.recording import plain

Read = tuple[tuple[str, Any], ...]
Written = tuple[str, tuple[tuple[str, Any], ...], Read]  # source, what its names stand for, attributes

_NUMBERS = count()
_MADE: dict[tuple[type[nn.Module], Written], type[nn.Module]] = {}


class Recorded(nn.Module):
    """What the classes have in common: they are written down as base class and source."""

    _recorded_base: type[nn.Module]
    _recorded_text: Written

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *state = reduced
        if type(self) not in arguments:  # a class that has its own way to be written down
            return function, arguments, *state
        base, written = type(self)._recorded_base, type(self)._recorded_text
        return _restore, (base, written, *arguments[1:]), *state


def recorded_class(base: type[nn.Module], graph: fx.Graph, read: Read) -> type[nn.Module]:
    """A subclass of ``base`` whose forward is what the graph says, as long as the attributes in ``read`` are
    what they were. Equal graphs give one class, so that blocks of one kind stay of one kind."""
    code = graph.python_code("self")
    return _make(base, (code.src, tuple(_named(name, value) for name, value in code.globals.items()), read))


class _Imported(str):
    """The name of a module, which no pickle holds."""


def _named(name: str, value: Any) -> tuple[str, Any]:
    return name, _Imported(value.__name__) if isinstance(value, ModuleType) else value


def _restore(base: type[nn.Module], written: Any, *arguments: Any) -> nn.Module:
    made = _make(base, written)
    return made.__new__(made, *arguments)


def _make(base: type[nn.Module], written: Written) -> type[nn.Module]:
    if (base, written) not in _MADE:
        _MADE[base, written] = _made(base, written)
    return _MADE[base, written]


def _made(base: type[nn.Module], written: Written) -> type[nn.Module]:
    source, names, read = written
    known: dict[str, Any] = {
        name: importlib.import_module(value) if isinstance(value, _Imported) else value
        for name, value in names
    }
    file = f"<recorded forward {next(_NUMBERS)} of {base.__qualname__}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    exec(compile(source, file, "exec"), known)
    body = {
        "forward": _while_unchanged(known["forward"], base.forward, read),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_recorded_base": base,
        "_recorded_text": written,
    }
    return type(base.__name__, (Recorded, base), body)


def _while_unchanged(
    recorded: Callable[..., Any], original: Callable[..., Any], read: Read
) -> Callable[..., Any]:
    """``recorded`` for modules whose attributes are as ``read``, ``original`` for others."""

    @functools.wraps(original)
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        for path, value in read:
            if plain(self, path) != value:
                return original(self, *inputs, **named)
        return recorded(self, *inputs, **named)

    return forward
