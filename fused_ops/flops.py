"""What ``torch.utils.flop_counter`` counts for ops of this package, which it cannot look into.

The formulas go into torch's own registry, so that ``FlopCounterMode`` and torch.compile's estimates find them
unasked. The module that holds it imports Triton, which takes longer than this package does: it is not
imported for their sake, they are added when somebody imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
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


class _AddsFormulas(MetaPathFinder):
    """Finds the counter as it is found without us, and has the formulas follow its own code."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != COUNTER:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            for op in _formulas:
                _add(module, op)

        loader.exec_module = execute_and_add
        return spec


sys.meta_path.insert(0, _AddsFormulas())
