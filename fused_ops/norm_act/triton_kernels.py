"""The forward of ``norm_act`` in Triton; :mod:`.triton_launch` chooses among these kernels and starts them.

Every kernel works on a tile ``[C, K]`` of channels and elements. A *row* is what is normalized together:
with ``BATCH`` a channel over all samples (element k is pixel ``k % plane`` of sample ``k // plane``), else a
channel of one sample or, with ``WHOLE``, all ``SPAN`` channels of a group of one sample.

    row fits on chip    forward_row: one pass; the variance is taken from deviations that stay in registers
    else                partial_statistics -> finish_statistics -> forward_apply: one pass more over x
    given statistics    forward_apply

Large tensors lie either as planes (``CHANNELS_LAST`` false: pixels adjacent, then planes) or with their
channels adjacent. One ``step`` says where the next sample (planes) or pixel (channels last)
begins, so slices along the channels need no copy. The plane's size comes as ``units * UNIT``, from which the
compiler learns how far pixels are aligned, and so how wide it may load. Offsets into large tensors are 64
bits wide.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (arguments of kernels are values of Triton's own language)

from __future__ import annotations

import triton
import triton.language as tl

from fused_ops.triton_math import activate, last_first

# --- where things lie ---------------------------------------------------------------------------------------


@triton.jit
def channels_of_program(index, channels, SPAN: tl.constexpr, BLOCK_C: tl.constexpr, EVEN_C: tl.constexpr):
    """The channels of the index-th block of SPAN, their mask, and how often all blocks came before."""
    blocks = tl.cdiv(channels, SPAN)
    lane = tl.arange(0, BLOCK_C)
    channel = (index % blocks) * SPAN + lane  # [C]
    if EVEN_C:
        inside = tl.full((BLOCK_C,), True, tl.int1)
    elif SPAN == BLOCK_C:
        inside = channel < channels
    else:
        inside = (lane < SPAN) & (channel < channels)
    return channel, inside, index // blocks


@triton.jit
def sample_and_chunk(row, chunks, BATCH: tl.constexpr):
    """Of which sample the row-th of all chunks is, and which of its ``chunks``; rows of a batch have one."""
    if BATCH:
        return 0, row
    else:
        return row // chunks, row % chunks


@triton.jit
def locate(sample, k, plane, BATCH: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Sample and pixel of the elements k of a row.

    With channels last all pixels of a batch lie in one sequence, so no division tells which sample they are
    of: they are counted on from the first (``sample`` is 0).
    """
    if BATCH and not CHANNELS_LAST:
        return k // plane, k % plane
    else:
        return sample, k


@triton.jit
def offsets(sample, channel, pixel, plane, step, CHANNELS_LAST: tl.constexpr):
    """Offsets [C, K] of a tile of a large tensor; sample is a scalar or [K]."""
    if CHANNELS_LAST:
        start = (sample * plane + pixel).to(tl.int64) * step  # [K]
        return start[None, :] + channel[:, None]
    else:
        start = tl.cast(sample, tl.int64) * step + pixel  # [K]
        return start[None, :] + channel.to(tl.int64)[:, None] * plane


@triton.jit
def elements_of_tile(tile, count, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """The elements of a row that the tile-th tile sees, and their mask; EVEN_K: tiles fill the row."""
    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    return k, tl.full((BLOCK_K,), True, tl.int1) if EVEN_K else k < count


@triton.jit
def load_tile(pointer, at, mask):
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def add_noise(x, noise_ptr, noise_scale_ptr, sample, pixel, plane, inside):
    """x [C, K] + noise_scale * noise [K]; noise is dense, [N, plane]."""
    if noise_ptr is not None:
        scale = tl.load(noise_scale_ptr).to(tl.float32)
        at = (sample * plane + pixel).to(tl.int64)
        x += scale * tl.load(noise_ptr + at, mask=inside, other=0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def load_affine(pointer, sample, step, channel, inside, default):
    """gamma or beta as [C, 1], default beyond; step leads to the next sample, 0 for one value per channel."""
    if pointer is not None:
        value = tl.load(pointer + sample * step + channel, mask=inside, other=default).to(tl.float32)
        return value[:, None]
    else:
        return tl.zeros_like(channel).to(tl.float32)[:, None] + default


@triton.jit
def add_over(values, WHOLE: tl.constexpr):
    """Sum of a tile per row: [C, 1], or [1, 1] where all channels are one row."""
    totals = tl.sum(values, 1, keep_dims=True)
    if WHOLE:
        totals = tl.sum(totals, 0, keep_dims=True)
    return totals


@triton.jit
def merge(mean, squares, weight, inside, size, WHOLE: tl.constexpr):
    """Mean and sum of squared deviations of parts [C, K] of ``weight`` elements each, ``size`` in all.

    The parts' means, 0 beyond ``inside``, are set against their rough mean first, the error of which is taken
    out at the end: so both are as exact as float32 can hold them, however large the mean is.
    """
    share = 1.0 / size  # once: exact quotients are long code, too
    rough = add_over(mean * weight, WHOLE) * share
    apart = tl.where(inside, mean - rough, 0.0)
    both = tl.join(apart * weight, squares + apart * apart * weight)  # one sum: none waits for the other
    shift, squares = tl.split(add_over(both, WHOLE))
    shift *= share
    return rough + shift, squares - shift * shift * size


@triton.jit
def statistic_offsets(
    sample, channel, channels, SPAN: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Where the row of a channel keeps its mean and variance: [C], or [N * groups]."""
    if BATCH:
        return channel
    elif WHOLE:
        return sample * (channels // SPAN) + channel // SPAN
    else:
        return sample * channels + channel


@triton.jit
def store_statistic(pointer, value, at, inside, WHOLE: tl.constexpr):
    """Store [C, 1] per channel, or [1, 1] once."""
    if WHOLE:
        first = tl.min(at, 0)
        tl.store(pointer + first + tl.arange(0, 1), tl.reshape(value, (1,)))
    else:
        tl.store(pointer + at[:, None], value, mask=inside[:, None])


@triton.jit
def inverse_deviation(variance, eps):
    """To two roundings, as torch's own kernels on a GPU take it: exact roots and quotients are long code."""
    return tl.rsqrt(variance + tl.cast(eps, tl.float32))


@triton.jit
def finish(deviation, residual_ptr, residual_at, scale, beta, mask, slope, ACTIVATION: tl.constexpr):
    """activation(deviation * scale + beta + residual), where scale is gamma / standard deviation"""
    z = deviation * scale + beta
    if residual_ptr is not None:
        z += load_tile(residual_ptr, residual_at, mask)
    return activate(z, slope, ACTIVATION)


# --- kernels ------------------------------------------------------------------------------------------------


@triton.jit
def forward_row(
    x_ptr, residual_ptr, noise_ptr, noise_scale_ptr, gamma_ptr, beta_ptr,
    y_ptr, mean_ptr, var_ptr,
    samples, channels, units, x_step, residual_step, y_step, gamma_step, beta_step, eps, slope,
    UNIT: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Statistics and result of whole rows in one pass. Grid: samples x blocks of channels (BATCH: blocks)."""
    plane = units * UNIT
    count = samples * plane if BATCH else plane
    channel, inside_c, sample = channels_of_program(tl.program_id(0), channels, SPAN, BLOCK_C, EVEN_C)
    k = tl.arange(0, BLOCK_K)
    inside_k = k < count
    mask = inside_c[:, None] & inside_k[None, :]
    of_sample, pixel = locate(sample, k, plane, BATCH, CHANNELS_LAST)

    x = load_tile(x_ptr, offsets(of_sample, channel, pixel, plane, x_step, CHANNELS_LAST), mask)
    x = add_noise(x, noise_ptr, noise_scale_ptr, of_sample, pixel, plane, inside_k)
    size = tl.cast(count * SPAN if WHOLE else count, tl.float32)
    mean, squares = merge(x, 0.0, 1.0, mask, size, WHOLE)
    variance = squares / size

    at = statistic_offsets(sample, channel, channels, SPAN, BATCH, WHOLE)
    store_statistic(mean_ptr, mean, at, inside_c, WHOLE)
    store_statistic(var_ptr, variance, at, inside_c, WHOLE)
    y = finish(
        x - mean,
        residual_ptr,
        offsets(of_sample, channel, pixel, plane, residual_step, CHANNELS_LAST),
        load_affine(gamma_ptr, sample, gamma_step, channel, inside_c, 1.0) * inverse_deviation(variance, eps),
        load_affine(beta_ptr, sample, beta_step, channel, inside_c, 0.0),
        mask, slope, ACTIVATION,
    )  # fmt: skip
    y_at = offsets(of_sample, channel, pixel, plane, y_step, CHANNELS_LAST)
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def load_part(
    x_ptr, noise_ptr, noise_scale_ptr, sample, channel, tile, count, plane, inside_c, x_step,
    BATCH: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """A tile of x with its noise, 0 beyond the row, and the mask [K] of its elements."""
    k, inside_k = elements_of_tile(tile, count, BLOCK_K, EVEN_K)
    of_sample, pixel = locate(sample, k, plane, BATCH, CHANNELS_LAST)
    at = offsets(of_sample, channel, pixel, plane, x_step, CHANNELS_LAST)
    x = load_tile(x_ptr, at, inside_c[:, None] & inside_k[None, :])
    return add_noise(x, noise_ptr, noise_scale_ptr, of_sample, pixel, plane, inside_k), inside_k


@triton.jit
def partial_statistics(
    x_ptr, noise_ptr, noise_scale_ptr, partial_ptr, partial_rows, chunks,
    samples, channels, units, x_step,
    UNIT: tl.constexpr, BATCH: tl.constexpr, EVEN_C: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk of each channel, which has every chunks-th tile.

    So all programs go through memory together, and what came last is in the L2 cache for the kernel that
    begins there. Grid: chunks over all samples x blocks of channels. Writes partial [2, partial_rows,
    channels], the chunks of a sample one after the other. Each lane counts from its own first element, which
    is as far from its others as they may be from each other: so the few that it sees cost no accuracy, and
    nothing waits for anything while x is read. The lanes are merged at the end (Chan et al., 1979).
    """
    plane = units * UNIT
    count = samples * plane if BATCH else plane
    channel, inside_c, row = channels_of_program(tl.program_id(0), channels, BLOCK_C, BLOCK_C, EVEN_C)
    sample, chunk = sample_and_chunk(row, chunks, BATCH)
    first, inside_k = load_part(
        x_ptr, noise_ptr, noise_scale_ptr, sample, channel, chunk, count, plane, inside_c, x_step,
        BATCH, CHANNELS_LAST, BLOCK_K, EVEN_K,
    )  # fmt: skip
    seen = tl.where(inside_k, 1.0, 0.0)
    total = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    squares = tl.zeros((BLOCK_C, BLOCK_K), tl.float32)
    for tile in tl.range(chunk + chunks, tl.cdiv(count, BLOCK_K), chunks, num_stages=STAGES):
        x, inside_k = load_part(
            x_ptr, noise_ptr, noise_scale_ptr, sample, channel, tile, count, plane, inside_c, x_step,
            BATCH, CHANNELS_LAST, BLOCK_K, EVEN_K,
        )  # fmt: skip
        apart = tl.where(inside_k[None, :], x - first, 0.0)
        seen += tl.where(inside_k, 1.0, 0.0)
        total += apart
        squares += apart * apart

    mean = total * (1.0 / tl.maximum(seen, 1.0))[None, :]
    size = elements_of_chunk(chunk, chunks, count, BLOCK_K).to(tl.float32)
    mean, squares = merge(
        first + mean, squares - mean * total, seen[None, :], (seen > 0)[None, :], size, False
    )  # fmt: skip
    at = row.to(tl.int64) * channels + channel[:, None]
    tl.store(partial_ptr + at, mean, mask=inside_c[:, None])
    tl.store(partial_ptr + tl.cast(partial_rows, tl.int64) * channels + at, squares, mask=inside_c[:, None])


@triton.jit
def elements_of_chunk(chunk, chunks, count, tile):
    """How many elements of a row's count are those of a chunk, to which every chunks-th tile belongs."""
    tiles = tl.cdiv(count, tile)
    has_last = (tiles - 1) % chunks == chunk
    return (tiles - chunk + chunks - 1) // chunks * tile - tl.where(has_last, tiles * tile - count, 0)


@triton.jit
def load_chunks(
    partial_ptr, second, begin, chunks, tile, count, channel, channels, inside_c, BLOCK_R: tl.constexpr
):  # fmt: skip
    """Means and sums of squared deviations [C, R], elements [R] of BLOCK_R chunks; 0 beyond the last."""
    chunk = begin + tl.arange(0, BLOCK_R)
    inside = chunk < chunks
    mask = inside_c[:, None] & inside[None, :]
    at = chunk.to(tl.int64)[None, :] * channels + channel[:, None]
    mean = tl.load(partial_ptr + at, mask=mask, other=0.0)
    squares = tl.load(partial_ptr + second + at, mask=mask, other=0.0)
    size = elements_of_chunk(chunk, chunks, count, tile)
    return mean, squares, tl.where(inside, size, 0).to(tl.float32)


@triton.jit
def finish_statistics(
    partial_ptr, mean_ptr, var_ptr, partial_rows, chunks, tile, samples, channels, units,
    UNIT: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Merge the chunks of each row into its mean and biased variance. Grid as in forward_row.

    The chunks, whose tiles have ``tile`` elements, are read once, and counted from each lane's first, as
    elements are in partial_statistics.
    """
    count = samples * units * UNIT if BATCH else units * UNIT
    channel, inside_c, sample = channels_of_program(tl.program_id(0), channels, SPAN, BLOCK_C, EVEN_C)
    start = tl.cast(sample * chunks, tl.int64) * channels
    second = tl.cast(partial_rows, tl.int64) * channels
    first, squares, seen = load_chunks(
        partial_ptr + start, second, 0, chunks, tile, count, channel, channels, inside_c, BLOCK_R
    )  # fmt: skip
    total = tl.zeros((BLOCK_C, BLOCK_R), tl.float32)
    for begin in range(BLOCK_R, chunks, BLOCK_R):
        mean, more, size = load_chunks(
            partial_ptr + start, second, begin, chunks, tile, count, channel, channels, inside_c, BLOCK_R
        )  # fmt: skip
        apart = tl.where(size[None, :] > 0, mean - first, 0.0)
        seen += size
        total += apart * size[None, :]
        squares += more + apart * apart * size[None, :]

    mean = total * (1.0 / tl.maximum(seen, 1.0))[None, :]
    size = tl.cast(count, tl.float32) * (SPAN if WHOLE else 1)  # an integer might need over 31 bits
    inside = inside_c[:, None] & (seen > 0)[None, :]
    mean, squares = merge(first + mean, squares - mean * total, seen[None, :], inside, size, WHOLE)
    at = statistic_offsets(sample, channel, channels, SPAN, BATCH, WHOLE)
    store_statistic(mean_ptr, mean, at, inside_c, WHOLE)
    store_statistic(var_ptr, squares / size, at, inside_c, WHOLE)


@triton.jit
def forward_apply(
    x_ptr, residual_ptr, noise_ptr, noise_scale_ptr, gamma_ptr, beta_ptr, y_ptr, mean_ptr, var_ptr,
    chunks, samples, channels, units, x_step, residual_step, y_step, gamma_step, beta_step, eps, slope,
    UNIT: tl.constexpr, BATCH: tl.constexpr, WHOLE: tl.constexpr, SPAN: tl.constexpr, EVEN_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
):  # fmt: skip
    """The result from mean and variance. Grid: chunks of BLOCK_K over all samples x blocks of channels."""
    plane = units * UNIT
    count = samples * plane if BATCH else plane
    channel, inside_c, row = channels_of_program(last_first(), channels, BLOCK_C, BLOCK_C, EVEN_C)
    sample, chunk = sample_and_chunk(row, chunks, BATCH)
    k, inside_k = elements_of_tile(chunk, count, BLOCK_K, EVEN_K)
    mask = inside_c[:, None] & inside_k[None, :]
    of_sample, pixel = locate(sample, k, plane, BATCH, CHANNELS_LAST)

    x = load_tile(x_ptr, offsets(of_sample, channel, pixel, plane, x_step, CHANNELS_LAST), mask)
    x = add_noise(x, noise_ptr, noise_scale_ptr, of_sample, pixel, plane, inside_k)
    at = statistic_offsets(sample, channel, channels, SPAN, BATCH, WHOLE)
    mean = tl.load(mean_ptr + at, mask=inside_c, other=0.0).to(tl.float32)[:, None]
    variance = tl.load(var_ptr + at, mask=inside_c, other=0.0).to(tl.float32)[:, None]
    y = finish(
        x - mean,
        residual_ptr,
        offsets(of_sample, channel, pixel, plane, residual_step, CHANNELS_LAST),
        load_affine(gamma_ptr, sample, gamma_step, channel, inside_c, 1.0) * inverse_deviation(variance, eps),
        load_affine(beta_ptr, sample, beta_step, channel, inside_c, 0.0),
        mask, slope, ACTIVATION,
    )  # fmt: skip
    y_at = offsets(of_sample, channel, pixel, plane, y_step, CHANNELS_LAST)
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=mask)
