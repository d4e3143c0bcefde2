"""Classes of modules whose forward is a recorded graph; copied, pickled and compiled as any other."""

from __future__ import annotations

import copyreg
import functools
import importlib
import linecache
import re
from collections.abc import Callable
from itertools import count
from types import ModuleType
from typing import Any

from torch import fx, nn

from fused_ops.around import Around, found_around, is_around, is_still
from fused_ops.leaf import refuse_script
from fused_ops.straight_code import plain

Read = tuple[tuple[str, Any], ...]
Written = tuple[str, tuple[tuple[str, Any], ...], Read]  # source, what its names stand for, attributes

_NUMBERS = count()
_MADE: dict[tuple[type[nn.Module], Written | Callable[..., Any], Around | None], type[nn.Module]] = {}


class Recorded(nn.Module):
    """What the classes have in common: they are written down as base class and source."""

    _recorded_base: type[nn.Module]
    _recorded_text: Written | Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Who makes another of this module's class gets one of the class that it had."""
        base: Any = type(self)._recorded_base
        if _is_made(type(self)):
            self.__class__ = base
        base.__init__(self, *args, **kwargs)

    def __init_subclass__(cls) -> None:
        """Nothing of the base class's: no registry is to list these."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        function, arguments, *state = reduced
        kind, base = type(self), type(self)._recorded_base
        if not _is_made(kind):
            return reduced  # somebody's subclass, which is written down as any other
        if function is copyreg.__newobj__ and arguments[0] is kind:  # type: ignore[attr-defined]
            return _restore, (_Kept(kind), *arguments[1:]), *state
        # A class that has its own way to be written down: as one of these.
        function = base if function is kind else function
        return function, tuple(base if value is kind else value for value in arguments), *state


class _Kept:
    """A class within what a module is written down as: whoever copies the module takes the class as it is,
    and pickle writes down what it is made of."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return self

    def __reduce__(self) -> Any:
        return _kept, (self.kind._recorded_base, self.kind._recorded_text)


def _is_made(kind: type[nn.Module]) -> bool:
    return "_recorded_text" in vars(kind)


def recorded_class(base: type[nn.Module], graph: fx.Graph, read: Read) -> type[nn.Module]:
    """A subclass of ``base`` whose forward is what the graph says, as long as the attributes in ``read`` are
    what they were. Equal graphs give one class, so that blocks of one kind stay of one kind."""
    code = graph.python_code("self")
    used = set(re.findall(r"\w+", code.src))  # torch.fx also hands over nan, unequal to itself once pickled
    names = tuple(_named(name, value) for name, value in code.globals.items() if name in used)
    return _make(base, (code.src, names, read))


def extended_class(base: type[nn.Module], forward: Callable[..., Any]) -> type[nn.Module]:
    """A subclass of ``base`` with the forward of an importable class."""
    return _make(base, forward)


class _Imported(str):
    """The name of a module, which no pickle holds."""


def _named(name: str, value: Any) -> tuple[str, Any]:
    return name, _Imported(value.__name__) if isinstance(value, ModuleType) else value


def _kept(base: type[nn.Module], written: Written | Callable[..., Any]) -> _Kept:
    return _Kept(_make(base, written))


def _restore(kept: _Kept, *arguments: Any) -> nn.Module:
    return kept.kind.__new__(kept.kind, *arguments)


def _make(base: type[nn.Module], written: Written | Callable[..., Any]) -> type[nn.Module]:
    around = () if callable(written) else found_around(base, written[2])
    if (base, written, around) not in _MADE:
        body = {
            "forward": written if callable(written) else _forward(base, written, around),
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "_recorded_base": base,
            "_recorded_text": written,
        }
        if callable(written):  # in a recorded forward's place torch.jit.script reads the base class's
            body["__prepare_scriptable__"] = refuse_script
        _MADE[base, written, around] = type(base.__name__, (Recorded, base), body)
    return _MADE[base, written, around]


def _forward(base: type[nn.Module], written: Written, around: Around | None) -> Callable[..., Any]:
    source, names, read = written
    known: dict[str, Any] = {
        name: importlib.import_module(value) if isinstance(value, _Imported) else value
        for name, value in names
    }
    file = f"<recorded forward {next(_NUMBERS)} of {base.__qualname__}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    exec(compile(source, file, "exec"), known)
    forward: Any = _while_unchanged(known["forward"], base, read, around)
    # Dynamo counts how often it compiled a code object, and which sizes vary in its file: one for each class.
    # Not the recorded one's file, of which a traceback would show some other line.
    forward.__code__ = forward.__code__.replace(co_filename=f"{__file__} for {file}")
    return forward


def _while_unchanged(
    recorded: Callable[..., Any], base: type[nn.Module], read: Read, around: Around | None
) -> Callable[..., Any]:
    """``recorded`` for modules whose attributes are as ``read``; the forward of ``base`` for others, and for
    all once base has another, or where anything stands around it now that did not when it was recorded."""
    original = base.forward
    if around is None:
        around, recorded = (), original
    own = [(path, value) for path, value in read if not is_around(path)]

    @functools.wraps(original)
    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        if base.forward is not original:
            return base.forward(self, *inputs, **named)
        for owner, name, value in around:
            if not is_still(getattr(owner, name, None), value):
                return original(self, *inputs, **named)
        for path, value in own:
            if plain(self, path) != value:
                return original(self, *inputs, **named)
        return recorded(self, *inputs, **named)

    return forward
