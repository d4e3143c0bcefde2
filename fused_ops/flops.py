"""What ``torch.utils.flop_counter`` counts for ops of this package, which it cannot look into.

The formulas go into torch's own registry, so that ``FlopCounterMode`` and torch.compile's estimates find them
unasked. The module that holds it imports Triton, which takes longer than this package does: it is not
imported for their sake, they are added when somebody imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

COUNTER = "torch.utils.flop_counter"

_formulas: dict[str, Callable[..., int]] = {}


def register(op: str, formula: Callable[..., int]) -> None:
    """``formula`` takes the arguments of ``fused_ops::op``, shapes in place of tensors, and ``out_shape``."""
    _formulas[op] = formula
    if COUNTER in sys.modules:
        _add(sys.modules[COUNTER], op)


def _add(counter: ModuleType, op: str) -> None:
    counter.register_flop_formula(getattr(torch.ops.fused_ops, op))(_formulas[op])


class _AddsFormulas(Loader):
    """The counter's own loader, whose code the formulas follow."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # which has the source, for who asks for it
        self._loader.exec_module(module)
        for op in _formulas:
            _add(module, op)


class _FindsCounter(MetaPathFinder):
    """Finds the counter as it is found without us."""

    _asks_others = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != COUNTER or self._asks_others:
            return None
        self._asks_others = True
        try:
            spec = find_spec(fullname)
        finally:
            self._asks_others = False
        if spec is not None:
            spec.loader = _AddsFormulas(spec.loader)
        return spec


sys.meta_path.insert(0, _FindsCounter())
