"""The backward of ``norm_act`` in Triton; tiles, rows and layouts as in :mod:`.triton_kernels`.

    row fits on chip    backward_row: one pass
    else                partial_sums -> finish_sums -> backward_apply: one pass more over x and grad
    given statistics    backward_apply, and the first two for the gradients of gamma and beta

With g_z = grad * f'(z) and the means over a row of g_z * gamma and g_z * gamma * xhat,

    grad_x = rstd * (g_z * gamma - mean - xhat * mean_with_xhat),    grad_residual = g_z,
    grad_gamma = sum g_z * xhat,    grad_beta = sum g_z

Sums are taken in a fixed order, so that the same call gives the same bits.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.norm_act.triton_kernels import (
    add_noise,
    add_over,
    channels_of_program,
    elements_of_tile,
    inverse_deviation,
    load_affine,
    load_tile,
    locate,
    offsets,
    sample_and_chunk,
    statistic_offsets,
    store_statistic,
)
from fused_ops.triton_math import LEAKY_RELU, derivative_from_input, derivative_from_output, last_first

# From what the activation's derivative is told: nothing (identity), y as it was kept, z computed again, or y
# in the place of x, which follows from it (inplace=True).
NOTHING = tl.constexpr(0)
OUTPUT = tl.constexpr(1)
INPUT = tl.constexpr(2)
RESTORED = tl.constexpr(3)


@triton.jit
def load_row_values(
    mean_ptr, var_ptr, gamma_ptr, beta_ptr, sample, channel, channels, inside, gamma_step, beta_step, eps,
    SPAN: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """mean, 1 / deviation, gamma and beta of each channel, [C, 1]."""
    at = statistic_offsets(sample, channel, channels, SPAN, BATCH, WHOLE)
    mean = tl.load(mean_ptr + at, mask=inside, other=0.0).to(tl.float32)[:, None]
    variance = tl.load(var_ptr + at, mask=inside, other=0.0).to(tl.float32)[:, None]
    gamma = load_affine(gamma_ptr, sample, gamma_step, channel, inside, 1.0)
    beta = load_affine(beta_ptr, sample, beta_step, channel, inside, 0.0)
    return mean, inverse_deviation(variance, eps), gamma, beta


@triton.jit
def gradient_of_z(
    grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, mean, rstd, gamma, beta,
    sample, channel, pixel, plane, inside_k, mask, grad_step, x_step, y_step, residual_step, slope,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, EVIDENCE: tl.constexpr,
):  # fmt: skip
    """grad * f'(z), 0 beyond the mask, and x - mean; both [C, K]."""
    x = load_tile(x_ptr, offsets(sample, channel, pixel, plane, x_step, CHANNELS_LAST), mask)
    grad = load_tile(grad_ptr, offsets(sample, channel, pixel, plane, grad_step, CHANNELS_LAST), mask)
    if EVIDENCE == RESTORED:
        if ACTIVATION == LEAKY_RELU:
            slope = tl.cast(slope, tl.float32)
            grad *= derivative_from_output(x, slope, ACTIVATION)
            x = tl.where(x > 0, x, x * (1 / slope))
        undo = 1 / (gamma * rstd)
        deviation = x * undo - beta * undo
    else:
        deviation = add_noise(x, noise_ptr, noise_scale_ptr, sample, pixel, plane, inside_k) - mean
    if EVIDENCE == OUTPUT:
        y = load_tile(y_ptr, offsets(sample, channel, pixel, plane, y_step, CHANNELS_LAST), mask)
        grad *= derivative_from_output(y, slope, ACTIVATION)
    elif EVIDENCE == INPUT:
        z = deviation * (gamma * rstd) + beta
        if residual_ptr is not None:
            at = offsets(sample, channel, pixel, plane, residual_step, CHANNELS_LAST)
            z += load_tile(residual_ptr, at, mask)
        grad *= derivative_from_input(z, slope, ACTIVATION)
    return grad, deviation


@triton.jit
def gradient_of_x(grad_z, deviation, gamma, rstd, mean, mean_with_xhat):
    """rstd * (grad_z * gamma - mean - xhat * mean_with_xhat), in two multiplications for each element"""
    return grad_z * (gamma * rstd) - mean * rstd - deviation * (mean_with_xhat * rstd * rstd)


@triton.jit
def store_affine(grad_gamma_ptr, grad_beta_ptr, with_xhat, plain, at, mask):
    """Store the sums [C, 1] as the gradients of gamma and beta, as far as these are wanted."""
    if grad_gamma_ptr is not None:
        tl.store(grad_gamma_ptr + at, with_xhat.to(grad_gamma_ptr.dtype.element_ty), mask=mask)
    if grad_beta_ptr is not None:
        tl.store(grad_beta_ptr + at, plain.to(grad_beta_ptr.dtype.element_ty), mask=mask)


@triton.jit
def store_gradients(
    grad_z, grad_x, grad_x_ptr, grad_residual_ptr, noise_ptr, noise_sum_ptr,
    of_sample, pixel, plane, at, mask, inside_k,
):  # fmt: skip
    """Store what is wanted of the gradients of x and the residual, and this program's sum for noise_scale."""
    if grad_x_ptr is not None:
        tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    if grad_residual_ptr is not None:
        tl.store(grad_residual_ptr + at, grad_z.to(grad_residual_ptr.dtype.element_ty), mask=mask)
    if noise_sum_ptr is not None:
        noise_at = (of_sample * plane + pixel).to(tl.int64)
        noise = tl.load(noise_ptr + noise_at, mask=inside_k, other=0.0).to(tl.float32)[None, :]
        total = tl.sum(tl.sum(tl.where(mask, grad_x * noise, 0.0), 1), 0)
        tl.store(noise_sum_ptr + tl.program_id(0), total)


@triton.jit
def backward_row(
    grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr,
    grad_x_ptr, grad_residual_ptr, grad_gamma_ptr, grad_beta_ptr, noise_sum_ptr,
    samples, channels, units, grad_step, x_step, y_step, residual_step, out_step,
    gamma_step, beta_step, affine_step, eps, slope,
    UNIT: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, EVIDENCE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """All gradients of whole rows in one pass. Grid as in forward_row.

    The gradients of gamma and beta are stored at ``sample * affine_step + channel``.
    """
    plane = units * UNIT
    count = samples * plane if BATCH else plane
    channel, inside_c, sample = channels_of_program(tl.program_id(0), channels, SPAN, BLOCK_C, EVEN_C)
    k = tl.arange(0, BLOCK_K)
    inside_k = k < count
    mask = inside_c[:, None] & inside_k[None, :]
    of_sample, pixel = locate(sample, k, plane, BATCH, CHANNELS_LAST)
    mean, rstd, gamma, beta = load_row_values(
        mean_ptr, var_ptr, gamma_ptr, beta_ptr, sample, channel, channels, inside_c,
        gamma_step, beta_step, eps, SPAN, BATCH, WHOLE,
    )  # fmt: skip
    grad_z, deviation = gradient_of_z(
        grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, mean, rstd, gamma, beta,
        of_sample, channel, pixel, plane, inside_k, mask, grad_step, x_step, y_step, residual_step, slope,
        CHANNELS_LAST, ACTIVATION, EVIDENCE,
    )  # fmt: skip
    plain = tl.sum(grad_z, 1, keep_dims=True)  # [C, 1]
    with_xhat = tl.sum(grad_z * deviation, 1, keep_dims=True) * rstd
    affine_at = sample * affine_step + channel[:, None]
    store_affine(grad_gamma_ptr, grad_beta_ptr, with_xhat, plain, affine_at, inside_c[:, None])

    share = 1.0 / tl.cast(count * SPAN if WHOLE else count, tl.float32)
    plain *= gamma * share
    with_xhat *= gamma * share
    if WHOLE:
        plain = tl.sum(plain, 0, keep_dims=True)
        with_xhat = tl.sum(with_xhat, 0, keep_dims=True)
    grad_x = gradient_of_x(grad_z, deviation, gamma, rstd, plain, with_xhat)
    store_gradients(
        grad_z, grad_x, grad_x_ptr, grad_residual_ptr, noise_ptr, noise_sum_ptr,
        of_sample, pixel, plane, offsets(of_sample, channel, pixel, plane, out_step, CHANNELS_LAST),
        mask, inside_k,
    )  # fmt: skip


@triton.jit
def partial_sums(
    grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr,
    partial_ptr, partial_rows, chunks,
    samples, channels, units, grad_step, x_step, y_step, residual_step, gamma_step, beta_step, eps, slope,
    UNIT: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, EVIDENCE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums of g_z and g_z * xhat over a chunk of each channel, partial [2, partial_rows, channels].

    Chunks and grid as in partial_statistics.
    """
    plane = units * UNIT
    count = samples * plane if BATCH else plane
    channel, inside_c, row = channels_of_program(tl.program_id(0), channels, BLOCK_C, BLOCK_C, EVEN_C)
    sample, chunk = sample_and_chunk(row, chunks, BATCH)
    mean, rstd, gamma, beta = load_row_values(
        mean_ptr, var_ptr, gamma_ptr, beta_ptr, sample, channel, channels, inside_c,
        gamma_step, beta_step, eps, SPAN, BATCH, WHOLE,
    )  # fmt: skip
    plain = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    with_deviation = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    for tile in tl.range(chunk, tl.cdiv(count, BLOCK_K), chunks, num_stages=STAGES):
        k, inside_k = elements_of_tile(tile, count, BLOCK_K, EVEN_K)
        mask = inside_c[:, None] & inside_k[None, :]
        of_sample, pixel = locate(sample, k, plane, BATCH, CHANNELS_LAST)
        grad_z, deviation = gradient_of_z(
            grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, mean, rstd, gamma, beta,
            of_sample, channel, pixel, plane, inside_k, mask, grad_step, x_step, y_step, residual_step, slope,
            CHANNELS_LAST, ACTIVATION, EVIDENCE,
        )  # fmt: skip
        plain += grad_z
        with_deviation += grad_z * deviation
    with_xhat = tl.sum(with_deviation, 1, keep_dims=True) * rstd
    partial_at = row.to(tl.int64) * channels + channel[:, None]
    tl.store(partial_ptr + partial_at, tl.sum(plain, 1, keep_dims=True), mask=inside_c[:, None])
    partial_at += tl.cast(partial_rows, tl.int64) * channels
    tl.store(partial_ptr + partial_at, with_xhat, mask=inside_c[:, None])


@triton.jit
def finish_sums(
    partial_ptr, gamma_ptr, grad_gamma_ptr, grad_beta_ptr, means_ptr,
    partial_rows, chunks, size, samples, channels, gamma_step, affine_step,
    BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Add up the chunks: gradients of gamma and beta, and where means_ptr is there the two means of each row.

    ``size`` is the number of elements of a row, means are [2, rows]. Grid as in forward_row.
    """
    channel, inside_c, sample = channels_of_program(tl.program_id(0), channels, SPAN, BLOCK_C, EVEN_C)
    start = tl.cast(sample * chunks, tl.int64) * channels
    second = tl.cast(partial_rows, tl.int64) * channels
    size = tl.cast(size, tl.float32)
    plain = tl.zeros((BLOCK_C, BLOCK_R), tl.float32)
    with_xhat = tl.zeros((BLOCK_C, BLOCK_R), tl.float32)
    for begin in range(0, chunks, BLOCK_R):
        chunk = begin + tl.arange(0, BLOCK_R)
        mask = inside_c[:, None] & (chunk < chunks)[None, :]
        at = start + chunk.to(tl.int64)[None, :] * channels + channel[:, None]
        plain += tl.load(partial_ptr + at, mask=mask, other=0.0)
        with_xhat += tl.load(partial_ptr + second + at, mask=mask, other=0.0)
    plain = tl.sum(plain, 1, keep_dims=True)
    with_xhat = tl.sum(with_xhat, 1, keep_dims=True)
    affine_at = sample * affine_step + channel[:, None]
    store_affine(grad_gamma_ptr, grad_beta_ptr, with_xhat, plain, affine_at, inside_c[:, None])
    if means_ptr is not None:
        gamma = load_affine(gamma_ptr, sample, gamma_step, channel, inside_c, 1.0)
        at = statistic_offsets(sample, channel, channels, SPAN, BATCH, WHOLE)
        rows = channels if BATCH else samples * (channels // SPAN if WHOLE else channels)
        store_statistic(means_ptr, add_over(plain * gamma, WHOLE) / size, at, inside_c, WHOLE)
        store_statistic(means_ptr + rows, add_over(with_xhat * gamma, WHOLE) / size, at, inside_c, WHOLE)


@triton.jit
def backward_apply(
    grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, gamma_ptr, beta_ptr, mean_ptr, var_ptr,
    means_ptr, grad_x_ptr, grad_residual_ptr, noise_sum_ptr, chunks,
    samples, channels, units, grad_step, x_step, y_step, residual_step, out_step,
    gamma_step, beta_step, eps, slope,
    UNIT: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, EVIDENCE: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """Gradients of x, residual and noise_scale from the means [2, rows], None where statistics are given.

    Grid as in forward_apply.
    """
    plane = units * UNIT
    count = samples * plane if BATCH else plane
    channel, inside_c, row = channels_of_program(last_first(), channels, BLOCK_C, BLOCK_C, EVEN_C)
    sample, chunk = sample_and_chunk(row, chunks, BATCH)
    k, inside_k = elements_of_tile(chunk, count, BLOCK_K, EVEN_K)
    mask = inside_c[:, None] & inside_k[None, :]
    of_sample, pixel = locate(sample, k, plane, BATCH, CHANNELS_LAST)
    mean, rstd, gamma, beta = load_row_values(
        mean_ptr, var_ptr, gamma_ptr, beta_ptr, sample, channel, channels, inside_c,
        gamma_step, beta_step, eps, SPAN, BATCH, WHOLE,
    )  # fmt: skip
    grad_z, deviation = gradient_of_z(
        grad_ptr, x_ptr, y_ptr, residual_ptr, noise_ptr, noise_scale_ptr, mean, rstd, gamma, beta,
        of_sample, channel, pixel, plane, inside_k, mask, grad_step, x_step, y_step, residual_step, slope,
        CHANNELS_LAST, ACTIVATION, EVIDENCE,
    )  # fmt: skip
    if means_ptr is not None:
        rows = channels if BATCH else samples * (channels // SPAN if WHOLE else channels)
        at = statistic_offsets(sample, channel, channels, SPAN, BATCH, WHOLE)
        of_plain = tl.load(means_ptr + at, mask=inside_c, other=0.0)[:, None]
        with_xhat = tl.load(means_ptr + rows + at, mask=inside_c, other=0.0)[:, None]
        grad_x = gradient_of_x(grad_z, deviation, gamma, rstd, of_plain, with_xhat)
    else:
        grad_x = grad_z * (gamma * rstd)
    store_gradients(
        grad_z, grad_x, grad_x_ptr, grad_residual_ptr, noise_ptr, noise_sum_ptr,
        of_sample, pixel, plane, offsets(of_sample, channel, pixel, plane, out_step, CHANNELS_LAST),
        mask, inside_k,
    )  # fmt: skip
