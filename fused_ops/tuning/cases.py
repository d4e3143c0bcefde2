"""The calls whose kernels are compiled ahead of time: both op families, in the shapes that FERSNet has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from fused_ops.activations import ACTIVATIONS

LAYOUTS = {"planes": torch.contiguous_format, "last": torch.channels_last}
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
Call = Callable[[], object]


def _features(n: int, c: int, size: int, dtype: torch.dtype, layout: str, width: int | None = None) -> Tensor:
    shape = (n, c, size, size if width is None else width)
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=LAYOUTS[layout])


# --- norm_act -----------------------------------------------------------------------------------------------


def norm_act(
    norm: str, activation: str, n: int, c: int, size: int, dtype: torch.dtype, layout: str, residual: bool,
    inplace: bool = False,
) -> None:  # fmt: skip
    """Forward and backward of a norm: "batch", "running", "instance", "group" (32 groups) or "adain"."""
    from fused_ops.norm_act import triton_launch

    x = _features(n, c, size, dtype, layout)
    other = torch.empty_like(x) if residual else None
    per = (n, c) if norm == "adain" else (c,)
    gamma, beta = (torch.empty(per, device="meta") for _ in range(2))
    noise = torch.empty((n, 1, size, size), dtype=dtype, device="meta") if norm == "adain" else None
    scale = None if noise is None else torch.empty((), device="meta")
    groups = {"batch": 0, "running": 0, "instance": c, "group": 32, "adain": c}[norm]
    given = norm == "running"
    mean, var = (torch.empty((c,), device="meta") for _ in range(2))
    row = ACTIVATIONS[activation]
    how = (groups, 1e-5, row.index, 0.2)
    y, used_mean, used_var = triton_launch.forward(
        x, gamma, beta, other, noise, scale, mean if given else None, var if given else None, *how
    )
    kept_y = y if residual and row.backward_needs == "output" else None
    triton_launch.backward(
        torch.empty_like(x), y if inplace else x, kept_y, gamma, beta,
        other if row.backward_needs == "input" else None,
        noise, scale, mean if given else used_mean, var if given else used_var, given, *how,
        inplace, True, True, residual, False, noise is not None,
    )  # fmt: skip


def norm_act_pool(
    norm: str, n: int, c: int, size: int, dtype: torch.dtype, layout: str, residual: bool
) -> None:
    """Forward and the pooling's backward of "batch" or "instance" norm + ReLU + 2x2 max-pooling."""
    from fused_ops.norm_act import triton_pool

    x = _features(n, c, size, dtype, layout)
    gamma, beta = (torch.empty((c,), device="meta") for _ in range(2))
    activation = ACTIVATIONS["relu"].index
    y, _, _, winner = triton_pool.forward(
        x, gamma, beta, torch.empty_like(x) if residual else None, None, None,
        0 if norm == "batch" else c, 1e-5, activation, 0.0, True,
    )  # fmt: skip
    triton_pool.unpool(torch.empty_like(y), y, winner, size, size, activation, 0.0)


_NORMS = {
    # norm, activation, N, C, H = W, residual
    "stem": ("batch", "relu", 64, 64, 96, False),
    "block": ("batch", "relu", 64, 128, 48, True),
    "deep": ("batch", "relu", 64, 512, 6, True),
    "frozen": ("running", "relu", 64, 128, 48, True),
    "image": ("instance", "leaky_relu", 64, 64, 96, False),
    "map": ("instance", "relu", 64, 256, 24, True),
    "small": ("instance", "gelu", 64, 512, 6, True),
    "groups": ("group", "silu", 16, 256, 24, False),
    "few": ("group", "silu", 2, 256, 96, True),
    "style": ("adain", "identity", 64, 256, 12, False),
    "large style": ("adain", "identity", 64, 64, 48, False),
}
_NORMS_OF: Mapping[torch.dtype, Iterable[str]] = {
    torch.bfloat16: _NORMS,
    torch.float32: ("block", "image", "groups", "large style"),
    torch.float16: ("block", "groups"),
}

_POOL_CASES: Mapping[str, Call] = {
    f"norm_act_pool {name} {NAMES[dtype]} {layout}": partial(
        norm_act_pool, norm, n, c, size, dtype, layout, name != "stem"
    )
    for name, (norm, n, c, size) in {
        "stem": ("batch", 64, 64, 96), "block": ("batch", 64, 128, 48), "map": ("instance", 64, 256, 24),
    }.items()
    for dtype in NAMES
    for layout in LAYOUTS
    if dtype != torch.float16 or name == "block"
}  # fmt: skip
_NORM_CASES: Mapping[str, Call] = {
    f"norm_act {name} {NAMES[dtype]} {layout}": partial(
        norm_act, norm, activation, n, c, size, dtype, layout, residual
    )
    for dtype, names in _NORMS_OF.items()
    for name, (norm, activation, n, c, size, residual) in _NORMS.items()
    for layout in LAYOUTS
    if name in names
} | {
    f"norm_act activation {name}": partial(norm_act, "batch", name, 8, 64, 32, torch.bfloat16, "last", True)
    for name in ACTIVATIONS
} | {
    f"norm_act in place {name} {NAMES[dtype]} {layout}": partial(
        norm_act, norm, activation, 64, c, size, dtype, layout, False, inplace=True
    )
    for name, (norm, activation, c, size) in {
        "plain": ("batch", "identity", 128, 48), "stem": ("batch", "leaky_relu", 64, 96),
        "image": ("instance", "leaky_relu", 64, 96), "map": ("instance", "leaky_relu", 256, 24),
    }.items()
    for dtype in (torch.bfloat16, torch.float32)
    for layout in LAYOUTS
}  # fmt: skip


# --- selective_share ----------------------------------------------------------------------------------------


def selective_share(
    n: int, cx: int, cy: int, size: int, dtype: torch.dtype, layout: str, mode: str, tf32: bool = False,
    x_of: int = 0,
) -> None:  # fmt: skip
    """A pair: "train" (gates kept), "autocast" (and weights' gradients in float32), "outside" (a loss on the
    gates, too), "recompute", "infer" (forward).

    ``x_of``: the channels that x is a slice of, if there are more.
    """
    from fused_ops.selective_share import triton_launch

    def weights(t: int, s: int) -> list[Tensor]:
        shapes = ((s, t + s), (t, s), (t, t), (t, t + s))
        return [torch.empty((*shape, 1, 1), dtype=dtype, device="meta") for shape in shapes]

    def features(channels: int) -> Tensor:
        return _features(n, channels, size, dtype, layout)

    x, y, pair = features(x_of or cx)[:, :cx], features(cy), [*weights(cx, cy), *weights(cy, cx)]
    gates = features(3 * (cx + cy)) if mode in ("train", "autocast", "outside") else None
    setting = torch.backends.cuda.matmul
    before, setting.fp32_precision = setting.fp32_precision, "tf32" if tf32 else "ieee"
    try:
        triton_launch.forward(x, y, pair, False, gates, (features(cx), features(cy)), LAYOUTS[layout])
        if mode != "infer":
            of_weights = torch.float32 if mode == "autocast" else dtype
            grads = [torch.empty_like(x), torch.empty_like(y)]
            grads += [torch.empty_like(weight, dtype=of_weights) for weight in pair]
            outside = None if mode != "outside" or gates is None else torch.empty_like(gates)
            triton_launch.backward(
                features(cx), features(cy), outside, x, y, gates, pair, False, grads, LAYOUTS[layout]
            )
    finally:
        setting.fp32_precision = before


_SHARES = {
    # N, Cx, Cy, H = W
    "16": (64, 16, 16, 96),
    "32": (64, 32, 32, 96),
    "64": (64, 64, 64, 48),
    "128": (64, 128, 128, 24),
    "256": (64, 256, 256, 12),
    "512": (64, 512, 512, 6),
    "256 batch 4": (4, 256, 256, 12),
    "256 batch 16": (16, 256, 256, 12),
    "64 and 128": (64, 64, 128, 24),
    "256 and 512": (64, 256, 512, 6),
    "48": (64, 48, 48, 24),
    "24 and 40": (8, 24, 40, 31),
    "100 and 24": (8, 100, 24, 31),
    "200 and 300": (8, 200, 300, 12),
}

_MODES = {
    "train": tuple(_SHARES),
    "autocast": ("64", "256"),
    "infer": tuple(_SHARES),
    "recompute": ("16", "256"),
    "outside": ("32", "64", "128", "256", "256 and 512", "48", "100 and 24"),
}


def _share_cases() -> Iterator[tuple[str, Call]]:
    def case(name: str, dtype: torch.dtype, layout: str, mode: str, tf32: bool = False) -> tuple[str, Call]:
        title = f"selective_share {name} {NAMES[dtype]} {layout} {mode}{' tf32' if tf32 else ''}"
        return title, partial(selective_share, *_SHARES[name], dtype, layout, mode, tf32)

    for layout in LAYOUTS:
        for mode, names in _MODES.items():
            for name in names:
                yield case(name, torch.bfloat16, layout, mode)
        for name in ("64", "128", "256", "200 and 300"):
            yield case(name, torch.float32, layout, "train")
        for name, x_of in (("64", 128), ("128", 256)):
            for mode in ("train", "outside", "infer"):
                title = f"selective_share {name} bfloat16 {layout} {mode} of a slice"
                yield title, partial(selective_share, *_SHARES[name], torch.bfloat16, layout, mode, x_of=x_of)
    for name, size in (("64", 31), ("128", 25), ("256", 11)):  # planes of pixels that lie together one by one
        n, cx, cy, _ = _SHARES[name]
        for mode in ("train", "infer"):
            call = partial(selective_share, n, cx, cy, size, torch.bfloat16, "planes", mode)
            yield f"selective_share odd planes of {name} bfloat16 {mode}", call
    for name in ("64", "128", "256", "200 and 300"):
        yield case(name, torch.float32, "last", "train", tf32=True)
    for name in ("64", "128", "256"):
        yield case(name, torch.float16, "last", "train")
    yield case("16", torch.float16, "last", "recompute")


CASES: Mapping[str, Call] = {**_NORM_CASES, **_POOL_CASES, **dict(_share_cases())}
