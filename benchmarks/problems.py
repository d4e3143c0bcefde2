"""The tensors and modules of one case, from which every provider builds what it runs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.cases import DTYPES, LAYOUTS, OPS, Case, norm_groups
from fer_mtl.evaluation.stock import to_stock
from fused_ops import (
    FusedAdaIN,
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedInstanceNormAct2d,
    FusedSelectiveShare,
)

SEED = 20207
_EXPRESSIONS = 7
Step = Callable[[], object]


@dataclass
class Problem:
    """One op on given tensors.

    ``features`` are the inputs that get a gradient, ``extras`` those that get none; both go to the module in
    this order. ``dtype`` is that of the case, to which also the float64 twin's values are rounded. ``bounds``
    gives, per mode, the roofline's work alone.
    """

    dtype: str
    fused: nn.Module
    features: tuple[Tensor, ...]
    extras: tuple[Tensor, ...]
    bounds: dict[str, Step]
    copy: Step
    stock: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.stock = to_stock(self.fused)
        self._grads: dict[tuple[int, ...], Tensor] = {}

    def call(self, module: nn.Module) -> tuple[Tensor, ...]:
        outputs = module(*self.features, *self.extras)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def leaves(self, module: nn.Module) -> tuple[Tensor, ...]:
        return *self.features, *module.parameters()

    def gradients(self, module: nn.Module, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        grads = [self._grad(index, output) for index, output in enumerate(outputs)]
        return torch.autograd.grad(outputs, self.leaves(module), grads)

    def _grad(self, index: int, output: Tensor) -> Tensor:
        """What the next layer would send back: in the memory format of the output that it got."""
        key = index, *output.stride()
        if key not in self._grads:
            generator = torch.Generator().manual_seed(SEED + 1 + index)
            value = torch.randn(output.shape, generator=generator).to(output.device, DTYPES[self.dtype])
            self._grads[key] = torch.empty_like(output).copy_(value)
        return self._grads[key]

    def results(self, module: nn.Module, with_gradients: bool) -> tuple[Tensor, ...]:
        """What the error is measured on: outputs, or outputs and all gradients."""
        if not with_gradients:
            with torch.no_grad():
                return self.call(module)
        outputs = self.call(module)
        return *(output.detach() for output in outputs), *self.gradients(module, outputs)

    @functools.cached_property
    def exact(self) -> Problem:
        """The same problem in float64, from the same (rounded) values."""
        twin = copy.copy(self)
        twin.__dict__.pop("exact", None)
        twin.stock = copy.deepcopy(self.stock).double()
        twin.features = tuple(x.detach().double().requires_grad_(x.requires_grad) for x in self.features)
        twin.extras = tuple(x.double() for x in self.extras)
        twin._grads = {}
        return twin


def make_problem(case: Case, device: str) -> Problem:
    """Random tensors and weights for a case, the same for every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _MAKERS[case.op](case, device)


def _features(case: Case, device: str) -> Tensor:
    shape = case.shape
    x = torch.randn(shape.batch, shape.channels, shape.side, shape.side)
    return x.to(device, DTYPES[case.dtype], memory_format=LAYOUTS[case.layout]).requires_grad_()


# --- selective share ----------------------------------------------------------------------------------------


def _share(case: Case, device: str, recompute: bool = False) -> Problem:
    module = FusedSelectiveShare(case.shape.channels, recompute=recompute).to(device, DTYPES[case.dtype])
    x, y = _features(case, device), _features(case, device)
    forward, backward = _share_products(case, device)

    def full() -> None:
        forward()
        backward()

    return Problem(
        case.dtype,
        module,
        (x, y),
        (),
        {"forward": forward, "backward": backward, "full": full},
        _copies(x, 2),
    )


def _share_products(case: Case, device: str) -> tuple[Step, Step]:
    """The matrix products of a pair into tensors that are there already: 24 C^2 and 48 C^2 FLOP per pixel.

    Forward: [y x] by the four gates' weights, and [r.y x] by [W U] for each direction. Each product has two
    in the backward, for the gradients of its two factors.
    """
    c, p = case.shape.channels, case.shape.pixels
    place = {"device": device, "dtype": DTYPES[case.dtype]}
    triples = []
    for inputs, outputs in ((2 * c, 4 * c), (2 * c, c), (2 * c, c)):
        features, weight = torch.randn(p, inputs).to(**place), torch.randn(outputs, inputs).to(**place)
        triples.append((features, weight, torch.randn(p, outputs).to(**place)))
    results = [
        (torch.empty_like(out), torch.empty_like(features), torch.empty_like(weight))
        for features, weight, out in triples
    ]

    def forward() -> None:
        for (features, weight, _), (out, _, _) in zip(triples, results, strict=True):
            torch.mm(features, weight.t(), out=out)

    def backward() -> None:
        for (features, weight, grad), (_, to_features, to_weight) in zip(triples, results, strict=True):
            torch.mm(grad, weight, out=to_features)
            torch.mm(grad.t(), features, out=to_weight)

    return forward, backward


# --- norm and activation ------------------------------------------------------------------------------------


def _norm(module: nn.Module, case: Case, device: str, *extras: Tensor, residual: bool = False) -> Problem:
    dtype = DTYPES[case.dtype]
    with torch.no_grad():
        for parameter in module.parameters():  # so that no parameter sits at a special value
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    features = tuple(_features(case, device) for _ in range(1 + residual))
    one_copy = 2 * case.shape.elements * dtype.itemsize
    op = OPS[case.op]
    fewest = {mode: op.cost(case.shape, mode, dtype.itemsize).bytes or 0 for mode in op.modes}
    bounds = {mode: _copies(features[0], moved / one_copy) for mode, moved in fewest.items()}
    return Problem(
        case.dtype,
        module.to(device, dtype),
        features,
        tuple(extra.to(device, dtype) for extra in extras),
        bounds,
        _copies(features[0], 1),
    )


def _copies(x: Tensor, count: float) -> Step:
    """Copy x's memory ``count`` times, the last time perhaps only half of it, between two buffers."""
    source = x.detach().clone().view(-1) if x.is_contiguous() else torch.randn(x.numel()).to(x)
    target = torch.empty_like(source)
    whole, part = int(count), round((count - int(count)) * source.numel())

    def run() -> None:
        for _ in range(whole):
            target.copy_(source)
        if part:
            target[:part].copy_(source[:part])

    return run


def _leaky() -> dict[str, object]:
    return {"activation": "leaky_relu", "negative_slope": 0.2}


def _batch_norm(case: Case, device: str) -> Problem:
    return _norm(FusedBatchNormAct2d(case.shape.channels, **_leaky()), case, device)


def _batch_norm_eval(case: Case, device: str) -> Problem:
    return _norm(FusedBatchNormAct2d(case.shape.channels, **_leaky()).eval(), case, device)


def _batch_norm_inplace(case: Case, device: str) -> Problem:
    return _norm(FusedBatchNormAct2d(case.shape.channels, inplace=True, **_leaky()), case, device)


def _batch_norm_residual(case: Case, device: str, pool: int = 1) -> Problem:
    norm = FusedBatchNormAct2d(case.shape.channels, activation="relu", pool=pool)
    return _norm(norm, case, device, residual=True)


def _instance_norm(case: Case, device: str) -> Problem:
    return _norm(FusedInstanceNormAct2d(case.shape.channels, **_leaky()), case, device)


def _group_norm(case: Case, device: str) -> Problem:
    channels = case.shape.channels
    return _norm(FusedGroupNormAct(norm_groups(channels), channels, activation="silu"), case, device)


def _adain(case: Case, device: str) -> Problem:
    batch, side = case.shape.batch, case.shape.side
    condition = torch.eye(_EXPRESSIONS)[torch.arange(batch) % _EXPRESSIONS]
    noise = torch.randn(batch, 1, side, side)
    return _norm(FusedAdaIN(case.shape.channels, _EXPRESSIONS), case, device, condition, noise)


_MAKERS: dict[str, Callable[[Case, str], Problem]] = {
    "selective_share": _share,
    "selective_share_recompute": functools.partial(_share, recompute=True),
    "batch_norm_act": _batch_norm,
    "batch_norm_act_eval": _batch_norm_eval,
    "batch_norm_act_inplace": _batch_norm_inplace,
    "batch_norm_act_pool": functools.partial(_batch_norm_residual, pool=2),
    "batch_norm_act_residual": _batch_norm_residual,
    "instance_norm_act": _instance_norm,
    "group_norm_act": _group_norm,
    "adain": _adain,
}
