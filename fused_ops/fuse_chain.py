"""What :func:`fused_ops.fuse` puts in place of norm (+ add) + activation (+ pooling): one call.

The modules of a chain stay what and where they are, for all who call, hook or exchange them: a parent's
forward runs them together, and in torch's own steps as soon as something hangs on them.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from fused_ops.activations import ACTIVATIONS, resolve
from fused_ops.casting import autocasts
from fused_ops.fuse_patterns import ACTIVATION_MODULES, Found, activation_module, is_pool_module
from fused_ops.leaf import refuse_script
from fused_ops.norm_act.after import After
from fused_ops.norm_act.layout import statistics_dtype
from fused_ops.norm_act.module import batch_norm, group_norm, instance_norm
from fused_ops.reading import is_dense

# torch's norms, and who computes what they and what follows do.
NORMS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.BatchNorm2d: batch_norm,
    nn.InstanceNorm2d: instance_norm,
    nn.GroupNorm: group_norm,
}
ADDS: dict[str, Callable[[Any, Any], Any]] = {"add": operator.add, "iadd": operator.iadd}


class Chain(NamedTuple):
    """A norm, what follows it and, where that can be fused too, the 2x2 max-pooling behind; and each
    ``nn.Identity`` that comes right after the norm, in place of what other networks of a kind have there.

    An activation or pooling that is called as a function is ``(name, slope)``, or True.
    """

    norm: nn.Module
    activation: nn.Module | Found
    pool: nn.Module | bool = False
    passed: tuple[nn.Module, ...] = ()

    def modules(self) -> list[nn.Module]:
        return [part for part in (*self[:3], *self.passed) if isinstance(part, nn.Module)]


def chain_at(modules: Sequence[nn.Module], place: int) -> Chain | None:
    """The chain that starts at ``place`` of modules that run one after the other."""
    if type(modules[place]) not in NORMS:
        return None
    end = place + 1
    while end < len(modules) and type(modules[end]) is nn.Identity:
        end += 1
    found = activation_module(modules[end]) if end < len(modules) else None
    if found is None:
        return None
    behind = modules[end + 1 : end + 2]
    pool = behind[0] if behind and can_pool(behind[0], found) else False
    return Chain(modules[place], modules[end], pool, tuple(modules[place + 1 : end]))


def can_pool(module: nn.Module, found: Found) -> bool:
    """Whether a module is a pooling that can be fused behind this activation, and nothing hangs on it."""
    return is_pool_module(module) and is_plain(module) and _is_monotone(found)


def _is_monotone(found: Found) -> bool:
    return ACTIVATIONS[found[0]].backward_needs != "input"


# What torch computes in a module of a chain, as against who put another forward into torch's class.
_TORCHS: tuple[type[nn.Module], ...] = (
    *NORMS, *ACTIVATION_MODULES, nn.MaxPool2d, nn.Identity, nn.Sequential,
)  # fmt: skip
_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    kind: kind.forward for kind in _TORCHS if kind.forward.__globals__ is vars(sys.modules[kind.__module__])
}


def is_torchs(kind: type[nn.Module]) -> bool:
    """Whether a class has the forward that torch gave it."""
    return kind.forward is _FORWARDS.get(kind)


def is_plain(module: nn.Module) -> bool:
    """Whether calling a module of torch's is calling the forward that torch gave it and nothing more."""
    return is_torchs(type(module)) and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


def run_chain(
    norm: nn.Module,
    activation: nn.Module | Found,
    pool: nn.Module | bool,
    x: Tensor,
    add: str | None = None,
    residual: Any = None,
    passed: tuple[nn.Module, ...] = (),
) -> Tensor:
    """``pool(activation(add(passed(norm(x)), residual)))``, x [N, C, H, W]; ``add`` is a key of ADDS, or None
    and nothing is added."""
    chain = Chain(norm, activation, pool, passed)
    found = activation if isinstance(activation, tuple) else activation_module(activation)
    if found is None or not _fits(chain, found, x, add, residual):
        return _in_steps(chain, x, add, residual)
    name, slope = found
    dtype = _read_in(norm, x)
    read = x if dtype is x.dtype else x.to(dtype)
    return NORMS[type(norm)](norm, read, residual, name, slope, pool=2 if pool else 1)


def _read_in(norm: nn.Module, x: Tensor) -> torch.dtype:
    """The dtype that torch's norm has x in: but on the CPU, autocast has group norms computed in float32."""
    halves = type(norm) is nn.GroupNorm and not x.is_cpu and x.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if halves and autocasts(x) else x.dtype


def _fits(chain: Chain, found: Found, x: Any, add: str | None, residual: Any) -> bool:
    """Whether this call computes in one what the modules do by themselves."""
    norm: Any = chain.norm
    if type(norm) not in NORMS or not isinstance(x, Tensor) or torch_module._has_any_global_hook():
        return False
    if chain.pool:
        # Another activation or pooling than was there, or features that torch pools otherwise.
        pools = isinstance(chain.pool, bool) or is_pool_module(chain.pool)
        if not pools or x.dim() != 4 or not _is_monotone(found):
            return False
    if not all(map(is_plain, chain.modules())) or any(type(part) is not nn.Identity for part in chain.passed):
        return False
    if (
        not is_dense(x)
        or norm.eps <= 0
        or (isinstance(norm, nn.InstanceNorm2d) and not _fits_instance_norm(norm, x))
    ):
        return False  # torch's own norms take that
    return add is None or (
        isinstance(residual, Tensor)
        and is_dense(residual)
        and residual.shape == x.shape
        and residual.dtype == _read_in(norm, x)
    )


def _fits_instance_norm(norm: nn.InstanceNorm2d, x: Tensor) -> bool:
    """Where torch's has no weight, it takes any number of channels, and running statistics of any dtype."""
    mean = norm.running_mean
    fits = mean is None or mean.dtype in (x.dtype, statistics_dtype(x.dtype))
    return fits and x.size(-3) == norm.num_features


def _in_steps(chain: Chain, x: Any, add: str | None, residual: Any) -> Any:
    norm, activation, pool, passed = chain
    z = norm(x)
    for part in passed:
        z = part(z)
    if add is not None:
        z = ADDS[add](z, residual)
    if isinstance(activation, tuple):
        z = After(None, *resolve(*activation), False, 1).apply(z)
    else:  # a module, or a function that took its place
        z = activation(z)
    if isinstance(pool, bool):
        return torch.nn.functional.max_pool2d(z, 2) if pool else z
    return pool(z)


class FusedSequential(nn.Sequential):
    """An ``nn.Sequential`` that runs the chains in it as one call each."""

    __prepare_scriptable__ = refuse_script

    def forward(self, input: Any) -> Any:
        if not is_torchs(nn.Sequential):
            return nn.Sequential.forward(self, input)
        modules, place = list(self._modules.values()), 0
        while place < len(modules):
            chain = chain_at(modules, place)  # anew each time: a module may have been exchanged
            if chain is None:
                input = modules[place](input)
                place += 1
            else:
                input = run_chain(*chain[:3], input, passed=chain.passed)
                place += len(chain.modules())
        return input


# nn.Sequential's has none: as text, they would keep what torch.fx makes of a model from being pickled.
FusedSequential.forward.__annotations__.clear()
