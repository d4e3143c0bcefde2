"""What is measured: the table of ops, their shapes, dtypes, layouts and modes, and what each call must cost.

This one table feeds time and memory, the quick and the full suite, the report and ``compare``. A case is one
(op, mode, shape, dtype, layout); within it all providers are measured side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fused_ops.tuning.cost_model import fewest_of_norm, fewest_of_share

Mode = Literal["forward", "backward", "full", "train", "inference"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PROVIDERS = {
    "eager": "plain PyTorch modules (fer_mtl/evaluation/stock.py)",
    "compile": "the same under torch.compile",
    "auto": "the fused op where its automatic choice is torch's own kernels (small calls)",
    "reference": "the fused op's plain-PyTorch backend",
    "cpu": "the fused op's C++ backend",
    "triton": "the fused op's Triton backend",
    "cuda": "the fused op's CUDA C++ backend",
    "bound": "the roofline's work alone: the same matrix products, or the fewest bytes as copies",
    "copy": "one copy of the feature tensor",
}
SUITES = ("selective_share", "norm_act", "fersnet_step")


@dataclass(frozen=True)
class Shape:
    """Features [batch, channels, side, side], or the images of a network preset.

    ``tier`` says what measures it: "quick" (the full suite too), "full", "sweep" (the full suite, but in one
    mode and without the reference: small calls and odd sizes, to see that nothing is slower than eager), or
    "test" (only where asked for by name).
    """

    batch: int
    channels: int
    side: int
    tier: str = "full"
    preset: str = ""

    @property
    def name(self) -> str:
        if self.preset:
            return f"{self.preset}-b{self.batch}"
        return f"b{self.batch}-c{self.channels}-s{self.side}"

    @property
    def pixels(self) -> int:
        return self.batch * self.side**2

    @property
    def elements(self) -> int:
        return self.pixels * self.channels


@dataclass(frozen=True)
class Cost:
    """What a call cannot do without: FLOPs of its matrix products, and bytes read and written.

    None where it is not known from a formula.
    """

    flops: int | None
    bytes: int | None


def share_cost(shape: Shape, mode: Mode, itemsize: int, recompute: bool = False) -> Cost:
    """A 1x1 ConvFLU pair with C channels on both sides."""
    return Cost(*fewest_of_share(shape.channels, shape.pixels, itemsize, mode, recompute))


def norm_cost(shape: Shape, mode: Mode, itemsize: int, **options: bool) -> Cost:
    """A norm with its activation; bound by memory, so its few FLOPs are not counted.

    ``options``: running, residual, pooled, as ``fewest_of_norm`` takes them.
    """
    return Cost(None, fewest_of_norm(shape.elements, itemsize, mode, **options))


def norm_groups(channels: int) -> int:
    """Groups of the group norm of so many channels: 8 at most."""
    return next(groups for groups in (8, 4, 3, 2, 1) if channels % groups == 0)


@dataclass(frozen=True)
class Op:
    """One row of the table; the ``quick_*`` are the parts that the quick suite takes."""

    name: str
    suite: str
    summary: str
    shapes: tuple[Shape, ...]
    cost: Callable[[Shape, Mode, int], Cost]
    modes: tuple[Mode, ...] = ("forward", "backward", "full")
    quick_modes: tuple[Mode, ...] = ("forward", "full")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    quick_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    layouts: tuple[str, ...] = ("channels_last", "contiguous")
    quick_layouts: tuple[str, ...] = ("channels_last", "contiguous")
    providers: tuple[str, ...] = tuple(PROVIDERS)
    quick_providers: tuple[str, ...] = (
        "eager", "compile", "auto", "cpu", "triton", "cuda", "bound", "copy",
    )  # fmt: skip


# The shapes of FERSNet's three levels and a larger first one, then a sweep.
SHARE_SHAPES = (
    Shape(16, 64, 48, "quick"),
    Shape(32, 128, 24, "quick"),
    Shape(32, 256, 12, "quick"),
    Shape(32, 512, 6, "quick"),
    Shape(1, 16, 4, "quick"),
    Shape(1, 1, 1, "sweep"),
    Shape(1, 64, 48, "sweep"),
    Shape(1, 1024, 3, "sweep"),
    Shape(8, 24, 17, "sweep"),
    Shape(8, 128, 24, "sweep"),
    Shape(8, 8, 96, "sweep"),
    Shape(2, 4, 5, "test"),
)
NORM_SHAPES = (
    Shape(8, 64, 96, "quick"),
    Shape(1, 16, 4, "quick"),
    Shape(8, 128, 48),
    Shape(8, 256, 12),
    Shape(8, 512, 6),
    Shape(32, 1024, 3, "sweep"),
    Shape(1, 8, 2, "sweep"),
    Shape(1, 64, 96, "sweep"),
    Shape(3, 24, 17, "sweep"),
    Shape(2, 8, 5, "test"),
)
STEP_SHAPES = (
    Shape(8, 3, 64, "quick", "small"),
    Shape(8, 3, 96, "full", "paper"),
    Shape(2, 3, 32, "test", "tiny"),
)

_SHARE = {"suite": "selective_share", "shapes": SHARE_SHAPES}
_SHARE_PROVIDERS = tuple(name for name in PROVIDERS if name != "copy")
_NORM = {"suite": "norm_act", "shapes": NORM_SHAPES, "quick_modes": ("full",), "quick_dtypes": ("float32",)}

_ROWS = (
    Op(
        "selective_share",
        summary="a ConvFLU pair, 1x1",
        cost=share_cost,
        quick_layouts=("channels_last",),
        providers=_SHARE_PROVIDERS,
        **_SHARE,
    ),
    Op(
        "selective_share_recompute",
        summary="the same, gates computed again in the backward (2 C kept instead of 8 C)",
        cost=lambda shape, mode, itemsize: share_cost(shape, mode, itemsize, recompute=True),
        modes=("full",),
        quick_modes=(),
        # Against the same bound as selective_share, which has no recomputation in it.
        providers=tuple(name for name in _SHARE_PROVIDERS if name not in ("eager", "compile")),
        **_SHARE,
    ),
    Op("batch_norm_act", summary="BatchNorm + LeakyReLU 0.2, training", cost=norm_cost, **_NORM),
    Op("instance_norm_act", summary="InstanceNorm + LeakyReLU 0.2", cost=norm_cost, **_NORM),
    Op("group_norm_act", summary="GroupNorm (8 groups at most) + SiLU", cost=norm_cost, **_NORM),
    Op("adain", summary="noise + InstanceNorm + conditional scale and shift", cost=norm_cost, **_NORM),
    Op(
        "batch_norm_act_residual",
        summary="BatchNorm + residual + ReLU, training",
        cost=lambda shape, mode, itemsize: norm_cost(shape, mode, itemsize, residual=True),
        **{**_NORM, "quick_modes": ()},
    ),
    Op(
        "batch_norm_act_pool",
        summary="BatchNorm + residual + ReLU + 2x2 max-pooling, training: FERSNet's blocks end so",
        cost=lambda shape, mode, itemsize: norm_cost(shape, mode, itemsize, residual=True, pooled=True),
        **_NORM,
    ),
    Op(
        "batch_norm_act_inplace",
        summary="BatchNorm + LeakyReLU 0.2, training, the output kept instead of the input",
        cost=norm_cost,
        **{**_NORM, "quick_modes": ()},
    ),
    Op(
        "batch_norm_act_eval",
        summary="BatchNorm with running statistics + LeakyReLU 0.2",
        cost=lambda shape, mode, itemsize: norm_cost(shape, mode, itemsize, running=True),
        **{**_NORM, "modes": ("forward",), "quick_modes": ("forward",)},
    ),
    Op(
        "fersnet_step",
        suite="fersnet_step",
        summary="FERSNet: discriminator and generator update, or recognition and synthesis of a batch",
        shapes=STEP_SHAPES,
        cost=lambda shape, mode, itemsize: Cost(None, None),
        modes=("train", "inference"),
        quick_modes=("train", "inference"),
        layouts=("channels_last",),
        quick_layouts=("channels_last",),
        providers=("eager", "compile", "cpu", "triton", "cuda"),
        quick_providers=("eager", "cpu", "triton", "cuda"),  # compiling FERSNet takes minutes
    ),
)
OPS: dict[str, Op] = {row.name: row for row in _ROWS}
SHAPES: dict[str, Shape] = {shape.name: shape for row in _ROWS for shape in row.shapes}


@dataclass(frozen=True)
class Case:
    """One thing to measure; ``providers`` are those that the selection asks for."""

    op: str
    mode: Mode
    shape: Shape
    dtype: str
    layout: str
    providers: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.op}-{self.mode}-{self.shape.name}-{self.dtype}-{self.layout}"

    @property
    def setup(self) -> tuple[str, Shape, str, str]:
        """What decides the tensors: cases that differ in mode alone share them."""
        return self.op, self.shape, self.dtype, self.layout

    def cost(self) -> Cost:
        return OPS[self.op].cost(self.shape, self.mode, DTYPES[self.dtype].itemsize)


@dataclass(frozen=True)
class Selection:
    """Which part of the table to measure: None takes what ``tier`` ("quick" or "full") says.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """

    tier: str = "quick"
    ops: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None
    shapes: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    layouts: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_names("tier", (self.tier,), ("quick", "full"))
        known = {
            "ops": dict.fromkeys((*OPS, *SUITES)),
            "modes": dict.fromkeys(mode for op in OPS.values() for mode in op.modes),
            "shapes": SHAPES,
            "dtypes": DTYPES,
            "layouts": LAYOUTS,
            "providers": PROVIDERS,
        }
        for field, names in known.items():
            check_names(field, getattr(self, field) or (), names)

    def cases(self, suite: str) -> list[Case]:
        """The cases of one suite, those with the same tensors side by side."""
        found = []
        for op in OPS.values():
            if op.suite != suite or not self._wants(op):
                continue
            shapes = [shape for shape in op.shapes if self._takes(shape)]
            for shape, dtype, layout in itertools.product(
                shapes, self._names(op, "dtypes"), self._names(op, "layouts")
            ):
                modes, providers = self._names(op, "modes"), self._names(op, "providers")
                if shape.tier == "sweep" and self.modes is None:
                    modes = modes[-1:]
                if shape.tier == "sweep" and self.providers is None:
                    providers = tuple(name for name in providers if name != "reference")
                found += [Case(op.name, mode, shape, dtype, layout, providers) for mode in modes]
        return found

    def _wants(self, op: Op) -> bool:
        """An op by its own name or, where no op is called so, by its suite's: ``norm_act``."""
        return self.ops is None or op.name in self.ops or (op.suite in self.ops and op.suite not in OPS)

    def _takes(self, shape: Shape) -> bool:
        if self.shapes is not None:
            return shape.name in self.shapes
        return shape.tier == "quick" or (self.tier == "full" and shape.tier != "test")

    def _names(self, op: Op, field: str) -> tuple[str, ...]:
        asked, all_names = getattr(self, field), getattr(op, field)
        if asked is not None:
            # A dtype outside the row's own may be asked for; a mode or provider that it lacks may not exist.
            return asked if field == "dtypes" else tuple(name for name in all_names if name in asked)
        if self.tier == "full":
            return all_names
        if field == "modes" and self.ops is not None and not op.quick_modes:
            return all_names  # asked for by name
        return tuple(name for name in getattr(op, f"quick_{field}") if name in all_names)


def check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    """ValueError for the first name that is not known, with the list of those that are."""
    known = tuple(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: {name!r} is unknown; known are {', '.join(known)}")
