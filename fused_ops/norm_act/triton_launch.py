"""The Triton backend of ``norm_act``: which kernels serve a call, in which launches.

Imported when the backend is first used. The kernels are in :mod:`.triton_kernels` and
:mod:`.triton_backward_kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fused_ops import tuning
from fused_ops.activations import BY_INDEX
from fused_ops.norm_act import triton_backward_kernels as backward_kernels
from fused_ops.norm_act import triton_kernels as kernels
from fused_ops.norm_act.layout import statistics_dtype, statistics_size
from fused_ops.norm_act.triton_plan import (
    Chunks,
    Geometry,
    finish_constants,
    partial_chunks,
    row_grid,
    row_plan,
    tile_plan,
)
from fused_ops.triton_support import Card, Planned, card_for, on_device, run


def affine_of(parameter: Tensor | None) -> tuple[Tensor | None, int]:
    """gamma or beta, its channels adjacent, and the distance between samples, 0 for one value per channel."""
    if parameter is None:
        return None, 0
    if parameter.stride(-1) != 1 and parameter.size(-1) > 1:
        parameter = parameter.contiguous()
    return parameter, parameter.stride(0) if parameter.dim() == 2 else 0


# --- forward ------------------------------------------------------------------------------------------------


def forward(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    groups: int,
    eps: float,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.norm_act`` in Triton."""
    given = mean is not None and var is not None
    g = Geometry.of(x, groups, given)
    final, measuring = _forward_launches(card_for(x.device), x.element_size(), g, given, activation)
    y = torch.empty_like(x, memory_format=g.format)
    (x, x_step), (residual, residual_step) = g.rows(x), g.rows(residual)  # type: ignore[assignment]
    (gamma, gamma_step), (beta, beta_step) = affine_of(gamma), affine_of(beta)
    noise = None if noise is None else noise.contiguous()
    used_mean, used_var = mean, var
    if used_mean is None or used_var is None:
        used_mean = x.new_empty(statistics_size(x, groups), dtype=statistics_dtype(x.dtype))
        used_var = torch.empty_like(used_mean)
    with on_device(x):
        if measuring is not None:
            measure(measuring, x, x_step, noise, noise_scale, used_mean, used_var)
        run(
            final, x, residual, noise, noise_scale, gamma, beta, y, used_mean, used_var,
            after=(x_step, residual_step, g.dense_step, gamma_step, beta_step, eps, slope),
        )  # fmt: skip
    if given:
        nothing = x.new_empty(0, dtype=statistics_dtype(x.dtype))
        return y, nothing, torch.empty_like(nothing)
    return y, used_mean, used_var


@tuning.remembered
def _forward_launches(
    card: Card, itemsize: int, g: Geometry, given: bool, activation: int
) -> tuple[Planned, Measuring | None]:
    """What normalizes, and what measures first where rows are not on chip."""
    limits = tuning.choose(card.architecture, "norm_act.forward", itemsize=itemsize)
    common = {**g.constants(), "CHANNELS_LAST": g.channels_last, "ACTIVATION": activation}
    plan = None if given else row_plan(g, itemsize, limits)
    if plan is not None:
        constants = {**common, "SPAN": plan.span, **plan.constants()}
        return Planned(kernels.forward_row, row_grid(g, plan.span), g.sizes(), constants), None
    plan = tile_plan(g, itemsize, limits)
    chunks = Chunks.of(g, plan)
    constants = {**common, "SPAN": g.span, **plan.constants_of_tiles(g)}
    final = Planned(kernels.forward_apply, chunks.grid, (chunks.per_sample, *g.sizes()), constants)
    return final, None if given else measuring_launches(card, itemsize, g)


class Measuring(NamedTuple):
    """The launches that give the statistics of split rows, and the rows of the partial results."""

    parts: Planned
    rows: int
    finish: Planned


@tuning.remembered
def measuring_launches(card: Card, itemsize: int, g: Geometry) -> Measuring:
    limits = tuning.choose(card.architecture, "norm_act.forward", itemsize=itemsize)
    plan = tile_plan(g, itemsize, limits)
    chunks = partial_chunks(g, plan, limits, card.processors)
    parts = Planned(
        kernels.partial_statistics, chunks.grid, (chunks.rows, chunks.per_sample, *g.sizes()),
        {
            "UNIT": g.unit, "BATCH": g.batch, "CHANNELS_LAST": g.channels_last, "STAGES": limits["stages"],
            **plan.constants_of_tiles(g),
        },
    )  # fmt: skip
    constants = {"UNIT": g.unit, **finish_constants(g, chunks.per_sample)}
    sizes = (chunks.rows, chunks.per_sample, plan.block_k, *g.sizes())
    finish = Planned(kernels.finish_statistics, row_grid(g, constants["SPAN"]), sizes, constants)
    return Measuring(parts, chunks.rows, finish)


def measure(
    measuring: Measuring, x: Tensor, x_step: int, noise: Tensor | None, noise_scale: Tensor | None,
    mean: Tensor, var: Tensor,
) -> None:  # fmt: skip
    partial = torch.empty((2, measuring.rows, x.size(1)), dtype=torch.float32, device=x.device)
    run(measuring.parts, x, noise, noise_scale, partial, after=(x_step,))
    run(measuring.finish, partial, mean, var)


# --- backward -----------------------------------------------------------------------------------------------


def backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    residual: Tensor | None,
    noise: Tensor | None,
    noise_scale: Tensor | None,
    mean: Tensor,
    var: Tensor,
    given: bool,
    groups: int,
    eps: float,
    activation: int,
    slope: float,
    restore: bool,
    need_x: bool,
    need_affine: bool,
    need_residual: bool,
    need_noise: bool,
    need_noise_scale: bool,
) -> tuple[Tensor, ...]:
    """``reference.norm_act_backward`` in Triton; it restores x from identity and leaky_relu."""
    g = Geometry.of(x, groups, given)
    needs = BY_INDEX[activation].backward_needs
    evidence = 3 if restore else {"nothing": 0, "output": 1 if y is not None else 2, "input": 2}[needs]
    launches = _backward_launches(card_for(x.device), x.element_size(), g, given, activation, evidence)
    grad_x = torch.empty_like(x, memory_format=g.format) if need_x or need_noise else None
    grad_residual = torch.empty_like(x, memory_format=g.format) if need_residual else None
    affine = _AffineGradients.of(g, gamma, beta, need_affine)
    (x, x_step), (grad, grad_step) = g.rows(x), g.rows(grad)  # type: ignore[assignment]
    (y, y_step), (residual, residual_step) = g.rows(y), g.rows(residual)
    (gamma, gamma_step), (beta, beta_step) = affine_of(gamma), affine_of(beta)
    noise = None if noise is None else noise.contiguous()
    inputs = (grad, x, y, residual, noise, noise_scale, gamma, beta, mean, var)
    steps = (grad_step, x_step, y_step, residual_step)
    row_values = (gamma_step, beta_step)
    noise_sums = None

    def noise_sums_for(grid: tuple[int, ...]) -> Tensor | None:
        return torch.empty(grid, dtype=torch.float32, device=x.device) if need_noise_scale else None

    with on_device(x):
        if launches.row is not None:
            noise_sums = noise_sums_for(launches.row.grid)
            run(
                launches.row, *inputs, grad_x, grad_residual, *affine.targets, noise_sums,
                after=(*steps, g.dense_step, *row_values, affine.step, eps, slope),
            )  # fmt: skip
            affine.finish()
        elif launches.parts is not None and launches.apply is not None:
            means = None
            wants_means = not given and (grad_x is not None or need_noise_scale)
            if wants_means or affine.wanted:
                partial = torch.empty((2, launches.rows, g.channels), dtype=torch.float32, device=x.device)
                run(launches.parts, *inputs, partial, after=(*steps, *row_values, eps, slope))
                if wants_means:
                    means = torch.empty((2, g.statistics), dtype=torch.float32, device=x.device)
                _finish_sums(g, partial, launches.per_sample, gamma, gamma_step, affine, means)
                affine.finish()
            if grad_x is not None or grad_residual is not None or need_noise_scale:
                noise_sums = noise_sums_for(launches.apply.grid)
                run(
                    launches.apply, *inputs, means, grad_x, grad_residual, noise_sums,
                    after=(*steps, g.dense_step, *row_values, eps, slope),
                )  # fmt: skip
    grad_noise = grad_noise_scale = None
    if noise is not None and noise_scale is not None:
        if need_noise and grad_x is not None:
            grad_noise = (grad_x.sum(1, keepdim=True, dtype=torch.float32) * noise_scale).to(noise.dtype)
        if noise_sums is not None:
            grad_noise_scale = noise_sums.sum().to(noise_scale.dtype).reshape(noise_scale.shape)
    found = (
        grad_x if need_x else None, affine.gamma, affine.beta, grad_residual, grad_noise, grad_noise_scale,
    )  # fmt: skip
    return tuple(x.new_empty(0) if value is None else value for value in found)


class _Backward(NamedTuple):
    """The launch for rows on chip; else those for sums of parts, of so many rows, and for the gradients."""

    row: Planned | None = None
    parts: Planned | None = None
    rows: int = 0
    per_sample: int = 0
    apply: Planned | None = None


@tuning.remembered
def _backward_launches(
    card: Card, itemsize: int, g: Geometry, given: bool, activation: int, evidence: int
) -> _Backward:  # fmt: skip
    limits = tuning.choose(card.architecture, "norm_act.backward", itemsize=itemsize)
    common = {
        **g.constants(), "CHANNELS_LAST": g.channels_last, "ACTIVATION": activation, "EVIDENCE": evidence,
    }  # fmt: skip
    plan = None if given else row_plan(g, itemsize, limits)
    if plan is not None:
        constants = {**common, "SPAN": plan.span, **plan.constants()}
        return _Backward(Planned(backward_kernels.backward_row, row_grid(g, plan.span), g.sizes(), constants))
    plan = tile_plan(g, itemsize, limits)
    constants = {**common, "SPAN": g.span, **plan.constants_of_tiles(g)}
    chunks = partial_chunks(g, plan, limits, card.processors)
    sizes: tuple[int, ...] = (chunks.rows, chunks.per_sample, *g.sizes())
    of_parts = {**constants, "STAGES": limits["stages"]}
    parts = Planned(backward_kernels.partial_sums, chunks.grid, sizes, of_parts)
    single = Chunks.of(g, plan)
    sizes = (single.per_sample, *g.sizes())
    apply = Planned(backward_kernels.backward_apply, single.grid, sizes, constants)
    return _Backward(None, parts, chunks.rows, chunks.per_sample, apply)


@dataclass(frozen=True)
class _AffineGradients:
    """The gradients of gamma and beta, None where not wanted, and where a kernel that sees rows puts sums.

    Where rows lie within samples and the parameters are shared by all samples, ``partial`` [2, N, C] takes
    the sums of each sample, and :meth:`finish` adds them up.
    """

    gamma: Tensor | None
    beta: Tensor | None
    partial: Tensor | None
    step: int  # between samples of the targets

    @classmethod
    def of(cls, g: Geometry, gamma: Tensor | None, beta: Tensor | None, need: bool) -> _AffineGradients:
        found = [
            torch.empty_like(parameter, memory_format=torch.contiguous_format)
            if need and parameter is not None
            else None
            for parameter in (gamma, beta)
        ]
        wanted = [parameter for parameter in found if parameter is not None]
        if not wanted or g.batch or wanted[0].dim() == 2:
            return cls(found[0], found[1], None, 0 if g.batch else g.channels)
        partial = torch.empty((2, g.samples, g.channels), dtype=torch.float32, device=wanted[0].device)
        return cls(found[0], found[1], partial, g.channels)

    @property
    def wanted(self) -> bool:
        return self.gamma is not None or self.beta is not None

    @property
    def targets(self) -> tuple[Tensor | None, Tensor | None]:
        if self.partial is None:
            return self.gamma, self.beta
        return self.partial[1], self.partial[0]

    def finish(self) -> None:
        if self.partial is None:
            return
        _, samples, channels = self.partial.shape
        over_samples = Geometry(1, channels, 1, True, torch.contiguous_format, True, 1)
        final = _AffineGradients(self.gamma, self.beta, None, 0)
        _finish_sums(over_samples, self.partial, samples, None, 0, final, None)


def _finish_sums(
    g: Geometry, partial: Tensor, per_sample: int, gamma: Tensor | None, gamma_step: int,
    affine: _AffineGradients, means: Tensor | None,
) -> None:  # fmt: skip
    run(
        _sums_launch(g, partial.size(1), per_sample), partial, gamma, *affine.targets, means,
        after=(gamma_step, affine.step),
    )  # fmt: skip


@tuning.remembered
def _sums_launch(g: Geometry, rows: int, per_sample: int) -> Planned:
    constants = finish_constants(g, per_sample)
    sizes = (rows, per_sample, float(g.length * g.span), g.samples, g.channels)
    return Planned(backward_kernels.finish_sums, row_grid(g, constants["SPAN"]), sizes, constants)
