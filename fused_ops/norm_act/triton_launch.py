"""The Triton backend of ``norm_act``: which kernels serve a call, in which launches.

Imported when the backend is first used. The kernels are in :mod:`.triton_kernels` and
:mod:`.triton_backward_kernels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    Plan,
    finish_constants,
    partial_chunks,
    row_grid,
    row_plan,
    tile_plan,
)
from fused_ops.triton_support import card_for, launch, on_device


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
    card = card_for(x)
    y = torch.empty_like(x, memory_format=g.format)
    (x, x_step), (residual, residual_step) = g.rows(x), g.rows(residual)  # type: ignore[assignment]
    (gamma, gamma_step), (beta, beta_step) = affine_of(gamma), affine_of(beta)
    noise = None if noise is None else noise.contiguous()
    nothing = x.new_empty(0, dtype=statistics_dtype(x.dtype))
    limits = tuning.choose(card.architecture, "norm_act.forward", itemsize=x.element_size())
    plan = None if given else row_plan(g, x.element_size(), limits)
    used_mean, used_var = mean, var
    if used_mean is None or used_var is None:
        used_mean, used_var = (
            x.new_empty(statistics_size(x, groups), dtype=statistics_dtype(x.dtype)) for _ in range(2)
        )
    steps = (x_step, residual_step, g.dense_step, gamma_step, beta_step)
    common = {**g.constants(), "CHANNELS_LAST": g.channels_last, "ACTIVATION": activation}
    with on_device(x):
        if plan is not None:
            launch(
                kernels.forward_row, row_grid(g, plan.span),
                x, residual, noise, noise_scale, gamma, beta, y, used_mean, used_var,
                *g.sizes(), *steps, eps, slope,
                **common, SPAN=plan.span, **plan.constants(),
            )  # fmt: skip
            return y, used_mean, used_var
        plan = tile_plan(g, x.element_size(), limits)
        if not given:
            statistics(g, plan, limits, x, x_step, noise, noise_scale, used_mean, used_var)
        chunks = Chunks.of(g, plan)
        launch(
            kernels.forward_apply, chunks.grid,
            x, residual, noise, noise_scale, gamma, beta, y, used_mean, used_var, chunks.per_sample,
            *g.sizes(), *steps, eps, slope,
            **common, SPAN=g.span, **plan.constants_of_tiles(g),
        )  # fmt: skip
    return (y, nothing, torch.empty_like(nothing)) if given else (y, used_mean, used_var)


def statistics(
    g: Geometry, plan: Plan, limits: Mapping[str, int], x: Tensor, x_step: int,
    noise: Tensor | None, noise_scale: Tensor | None, mean: Tensor, var: Tensor,
) -> None:  # fmt: skip
    chunks = partial_chunks(g, plan, limits, card_for(x).processors)
    partial = torch.empty((2, chunks.rows, g.channels), dtype=torch.float32, device=x.device)
    launch(
        kernels.partial_statistics, chunks.grid,
        x, noise, noise_scale, partial, chunks.rows, chunks.per_sample, chunks.tiles, *g.sizes(), x_step,
        UNIT=g.unit, BATCH=g.batch, CHANNELS_LAST=g.channels_last, STAGES=limits["stages"],
        **plan.constants_of_tiles(g),
    )  # fmt: skip
    constants = finish_constants(g, chunks.per_sample)
    launch(
        kernels.finish_statistics, row_grid(g, constants["SPAN"]),
        partial, mean, var, chunks.rows, chunks.per_sample, chunks.size, *g.sizes(), UNIT=g.unit, **constants,
    )  # fmt: skip


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
    need_x: bool,
    need_affine: bool,
    need_residual: bool,
    need_noise: bool,
    need_noise_scale: bool,
) -> tuple[Tensor, ...]:
    """``reference.norm_act_backward`` in Triton."""
    g = Geometry.of(x, groups, given)
    card = card_for(x)
    limits = tuning.choose(card.architecture, "norm_act.backward", itemsize=x.element_size())
    needs = BY_INDEX[activation].backward_needs
    evidence = {"nothing": 0, "output": 1 if y is not None else 2, "input": 2}[needs]
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
    common = {
        **g.constants(), "CHANNELS_LAST": g.channels_last, "ACTIVATION": activation, "EVIDENCE": evidence,
    }  # fmt: skip
    noise_sums = None

    def noise_sums_for(grid: tuple[int]) -> Tensor | None:
        return torch.empty(grid, dtype=torch.float32, device=x.device) if need_noise_scale else None

    with on_device(x):
        plan = None if given else row_plan(g, x.element_size(), limits)
        if plan is not None:
            grid = row_grid(g, plan.span)
            noise_sums = noise_sums_for(grid)
            launch(
                backward_kernels.backward_row, grid,
                *inputs, grad_x, grad_residual, *affine.targets, noise_sums,
                *g.sizes(), *steps, g.dense_step, *row_values, affine.step, eps, slope,
                **common, SPAN=plan.span, **plan.constants(),
            )  # fmt: skip
            affine.finish()
        else:
            plan = tile_plan(g, x.element_size(), limits)
            means = None
            wants_means = not given and (grad_x is not None or need_noise_scale)
            if wants_means or affine.wanted:
                chunks = partial_chunks(g, plan, limits, card.processors)
                partial = torch.empty((2, chunks.rows, g.channels), dtype=torch.float32, device=x.device)
                launch(
                    backward_kernels.partial_sums, chunks.grid,
                    *inputs, partial, chunks.rows, chunks.per_sample, chunks.tiles,
                    *g.sizes(), *steps, *row_values, eps, slope,
                    **common, SPAN=g.span, STAGES=limits["stages"], **plan.constants_of_tiles(g),
                )  # fmt: skip
                if wants_means:
                    means = torch.empty((2, g.statistics), dtype=torch.float32, device=x.device)
                _finish_sums(g, partial, chunks.per_sample, gamma, gamma_step, affine, means)
                affine.finish()
            if grad_x is not None or grad_residual is not None or need_noise_scale:
                chunks = Chunks.of(g, plan)
                noise_sums = noise_sums_for(chunks.grid)
                launch(
                    backward_kernels.backward_apply, chunks.grid,
                    *inputs, means, grad_x, grad_residual, noise_sums, chunks.per_sample,
                    *g.sizes(), *steps, g.dense_step, *row_values, eps, slope,
                    **common, SPAN=g.span, **plan.constants_of_tiles(g),
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
    constants = finish_constants(g, per_sample)
    launch(
        backward_kernels.finish_sums, row_grid(g, constants["SPAN"]),
        partial, gamma, *affine.targets, means,
        partial.size(1), per_sample, float(g.count * g.span), g.samples, g.channels, gamma_step, affine.step,
        **constants,
    )  # fmt: skip
