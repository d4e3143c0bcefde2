"""The launches of ``norm_act`` on a GPU by Triton or the CUDA C++ library; see :mod:`.cost_model`.

A row is what one mean is over. Where a program can hold it, one launch reads it once; longer ones are split:
one kernel measures parts, one merges them, one normalizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fused_ops.triton_support import Card, ceil_div, next_power_of_two
from fused_ops.tuning.cost_model import Kernel

if TYPE_CHECKING:
    from fused_ops.norm_act.triton_plan import Geometry

BACKENDS = ("triton", "cuda")
# csrc/norm_act: 16-byte chunks that a thread keeps of a row, threads of a block for rows and for parts.
CUDA_SLOTS, CUDA_ROW_THREADS, CUDA_PART_THREADS = 4, 512, 256


@dataclass(frozen=True)
class NormCall:
    """What the cost of a call depends on.

    Args:
        samples, channels, plane: x is [samples, channels, *spatial], plane the product of spatial.
        itemsize: bytes of an element.
        groups: 0 for batch statistics, else how many groups a sample has (channels: instance norm).
        given: whether the statistics are given, as in inference.
        channels_last: the memory format.
        residual, noise: whether there is one.
        evidence: what the activation's derivative is told: "nothing", "output" or "input".
        pooled: whether 2 x 2 max-pooling follows.
        sliced: whether x is part of a larger tensor, which the library copies before its kernels read it.
    """

    samples: int
    channels: int
    plane: int
    itemsize: int
    groups: int = 0
    given: bool = False
    channels_last: bool = True
    residual: bool = False
    noise: bool = False
    evidence: str = "output"
    pooled: bool = False
    sliced: bool = False

    @property
    def elements(self) -> int:
        return self.samples * self.channels * self.plane

    @property
    def geometry(self) -> Geometry:
        """As the Triton kernels see it."""
        from fused_ops.norm_act.triton_plan import Geometry  # that package imports the backends, and they us

        batch = self.given or not self.groups
        last = self.channels_last or self.plane == 1
        layout = torch.channels_last if last else torch.contiguous_format
        span = 1 if batch else self.channels // self.groups
        return Geometry(self.samples, self.channels, self.plane, last, layout, batch, span)

    def kernel(self, name: str, large: int, floats: int = 0) -> Kernel:
        """``large`` counts tensors of x's size, ``floats`` what is kept in float32; noise goes with x."""
        noise = self.samples * self.plane if self.noise and large else 0
        return Kernel(name, (large * self.elements + noise) * self.itemsize + 4 * floats)

    @property
    def kept(self) -> int:
        """Tensors besides x and the gradient that the backward reads: y, or the residual, for f'."""
        return int(self.residual and self.evidence != "nothing")


def forward(call: NormCall, backend: str, card: Card, limits: Mapping[str, int]) -> list[Kernel]:
    """The launches of a forward; ``limits`` is the row of the launch tables for Triton's."""
    large = 2 + call.residual
    statistics = 2 * call.geometry.statistics
    if call.pooled:
        moved = (1 + call.residual) * call.elements * call.itemsize + pooled_bytes(call, 1)
        pool = Kernel("pool", moved + 4 * statistics)
        return [pool] if call.given else [*measuring(call, backend, card, limits), pool]
    if call.given:
        return [call.kernel("apply", large, statistics)]
    if is_single_pass(call, backend, limits):
        return [call.kernel("row", large, statistics)]
    return [*measuring(call, backend, card, limits), call.kernel("apply", large, statistics)]


def measuring(call: NormCall, backend: str, card: Card, limits: Mapping[str, int]) -> list[Kernel]:
    """The launches that find the statistics of split rows."""
    partial = partial_floats(call, backend, card, limits, forward=True)
    return [
        call.kernel("partial_statistics", 1, partial),
        call.kernel("finish_statistics", 0, partial + 2 * call.geometry.statistics),
    ]


def pooled_bytes(call: NormCall, tensors: int) -> int:
    """Of tensors of the pooled pixels, and of which pixel of each square was the largest, a byte each."""
    return call.elements // 4 * (tensors * call.itemsize + 1)


def backward(call: NormCall, backend: str, card: Card, limits: Mapping[str, int]) -> list[Kernel]:
    """The launches of a backward, all gradients wanted."""
    if call.pooled:  # the gradient of z is also the residual's; then the norm's backward as of identity
        plain = replace(call, pooled=False, residual=False, evidence="nothing")
        return [unpool(call), *backward(plain, backend, card, limits)]
    reads, writes = 2 + call.kept, 1 + call.residual
    statistics = 2 * call.geometry.statistics
    # gamma and beta are shared by all samples: their gradients are summed over the samples at the end.
    per_sample = 0 if call.given or not call.groups or call.noise else 2 * call.samples * call.channels
    at_end = [call.kernel("finish_affine", 0, per_sample)] if per_sample else []
    if call.noise:
        at_end.append(call.kernel("sum of noise_scale's gradient", 0))
    if not call.given and is_single_pass(call, backend, limits):
        return [call.kernel("row", reads + writes, statistics + per_sample), *at_end]
    partial = partial_floats(call, backend, card, limits, forward=False)
    return [
        call.kernel("partial_sums", reads, statistics + partial),
        call.kernel("finish_sums", 0, partial + statistics + per_sample),
        *at_end,
        call.kernel("apply", reads + writes, 2 * statistics),
    ]


def unpool(call: NormCall) -> Kernel:
    """The backward of the pooling alone (``norm_act_pool_backward``), by either backend.

    It reads the gradient of the pooled y, a byte for each that tells the winner and, where the activation's
    derivative follows from it, y; it writes the gradient of z.
    """
    kept = 1 + (call.evidence == "output")
    return Kernel("unpool", call.elements * call.itemsize + pooled_bytes(call, kept))


def is_single_pass(call: NormCall, backend: str, limits: Mapping[str, int]) -> bool:
    """Whether a program of this backend holds a whole row, or the rows that lie between each other."""
    from fused_ops.norm_act.triton_plan import row_plan

    geometry = call.geometry
    if backend == "triton":
        return row_plan(geometry, call.itemsize, limits) is not None
    vector = 16 // call.itemsize
    if not geometry.channels_last:
        planes = call.samples if geometry.batch else geometry.span
        return planes * ceil_div(call.plane, vector) <= CUDA_SLOTS * CUDA_ROW_THREADS
    # A tile of 32 adjacent bytes, or of a group; each thread keeps some of its pixels.
    width = 32 // call.itemsize if geometry.batch else ceil_div(32 // call.itemsize, geometry.span)
    width = min(call.channels, width if geometry.batch else width * geometry.span)
    columns = next_power_of_two(ceil_div(width, vector))
    height = max(1, 32 // columns, next_power_of_two(ceil_div(geometry.length, CUDA_SLOTS)))
    return columns * vector <= 512 and height * columns <= CUDA_ROW_THREADS


def partial_floats(
    call: NormCall, backend: str, card: Card, limits: Mapping[str, int], *, forward: bool
) -> int:
    """Floats of the partial results of split rows: two for each part of a row, three in CUDA's forward."""
    from fused_ops.norm_act.triton_plan import partial_chunks, tile_plan

    geometry = call.geometry
    if backend == "triton":
        plan = tile_plan(geometry, call.itemsize, limits)
        return 2 * partial_chunks(geometry, plan, limits, card.processors).rows * call.channels
    wanted, vector, count = 8 * card.processors, 16 // call.itemsize, geometry.length
    if geometry.channels_last:
        columns = min(32, next_power_of_two(ceil_div(call.channels, vector)))
        tiles, height = ceil_div(call.channels, columns * vector), CUDA_PART_THREADS // columns
        parts = min(wanted // (geometry.repeats * tiles), ceil_div(count, height * CUDA_SLOTS))
        partials = geometry.repeats * max(1, parts) * call.channels
    else:
        chunks, planes, lanes, parts = ceil_div(call.plane, vector), call.samples * call.channels, 1, 1
        while lanes < CUDA_PART_THREADS and 2 * lanes * CUDA_SLOTS <= chunks:
            lanes *= 2
        together = 1 if lanes > 32 else CUDA_PART_THREADS // lanes
        while planes * parts < wanted * together and chunks >= parts * 2 * lanes * CUDA_SLOTS:
            parts *= 2
        partials = planes * parts
    return (3 if forward else 2) * partials
