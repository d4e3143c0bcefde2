"""What calls of the ops cost on a GPU: bytes, FLOPs and launches of every kernel, and the time these predict.

A prediction is the sum over a call's launches of the largest of bytes over memory bandwidth, FLOPs over the
products' rate and, where they were counted, instructions over what the schedulers start, plus a fixed time
for each launch. It holds for tensors that come from device memory, not
from the L2 cache, and for a card that is full; small calls are launches and little else. The kernels of each
op are listed in :mod:`.cost_share` and :mod:`.cost_norm`, here are the cards, and what no kernel can avoid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fused_ops.triton_support import Card

Precision = str  # "half" (float16, bfloat16), "tf32" or "ieee" (float32 as it is)


@dataclass(frozen=True)
class Kernel:
    """One launch: what it reads and writes of device memory, each byte once, and its matrix products.

    ``library`` says that it is the library's product (cuBLAS) and not a kernel of ours; ``instructions``
    are those of all threads, 0 where nobody has counted them.
    """

    name: str
    bytes: int
    flops: int = 0
    library: bool = False
    instructions: int = 0


@dataclass(frozen=True)
class Cost:
    """A call's FLOPs, bytes and launches."""

    flops: int
    bytes: int
    launches: int

    @classmethod
    def of(cls, kernels: Iterable[Kernel]) -> Cost:
        kernels = tuple(kernels)
        return cls(
            sum(kernel.flops for kernel in kernels), sum(kernel.bytes for kernel in kernels), len(kernels)
        )


# --- cards --------------------------------------------------------------------------------------------------

# What is assumed to be attained of a data sheet's figure until a run on a card says better: of memory
# bandwidth and by the library's products what a large copy and an 8192^3 product reach on an H100 under
# torch 2.11 (3.0 of 3.35 TB/s, 798 of 989 TFLOP/s); by our own kernels' products a guess.
ATTAINED_BYTES = 0.9
ATTAINED_LIBRARY = 0.8
ATTAINED_OWN = 0.55
ATTAINED_INSTRUCTIONS = 0.5  # a guess, too: a scheduler has two to four warps, which wait for memory and sums
LAUNCH_SECONDS = 2e-6  # from one kernel's end to the next one's full speed, in a stream that is never empty


@dataclass(frozen=True)
class Ceilings:
    """A card's data sheet: bytes, dense FLOPs (without sparsity) and threads' instructions per second."""

    name: str
    bytes: float
    flops: Mapping[Precision, float]
    instructions: float
    source: str

    def seconds(self, kernels: Iterable[Kernel], precision: Precision) -> float:
        """The predicted time of a call that launches these kernels."""
        return sum(LAUNCH_SECONDS + self._busy(kernel, precision) for kernel in kernels)

    def _busy(self, kernel: Kernel, precision: Precision) -> float:
        attained = ATTAINED_LIBRARY if kernel.library else ATTAINED_OWN
        products = kernel.flops / (attained * self.flops[precision])
        instructions = kernel.instructions / (ATTAINED_INSTRUCTIONS * self.instructions)
        return max(kernel.bytes / (ATTAINED_BYTES * self.bytes), products, instructions)

    def roofline(self, flops: int, bytes: int, precision: Precision) -> float:
        """Seconds that no kernel can do without, as far as the card's ceilings are attained at all."""
        least = Kernel("roofline", bytes, flops, library=True)
        return self._busy(least, precision)


def _tera(half: float, tf32: float, ieee: float) -> Mapping[Precision, float]:
    return {"half": half * 1e12, "tf32": tf32 * 1e12, "ieee": ieee * 1e12}


def _instructions(processors: int, clock: float) -> float:
    """Four schedulers a processor start an instruction of 32 threads each clock."""
    return 4 * 32 * processors * clock


# Dense rates: half of those that NVIDIA prints with sparsity. Processors and boost clocks as there.
CEILINGS = {
    ceilings.name: ceilings
    for ceilings in (
        Ceilings(
            "A100",
            2.039e12,
            _tera(312, 156, 19.5),
            _instructions(108, 1.41e9),
            "NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM",
        ),
        Ceilings(
            "H100",
            3.35e12,
            _tera(989, 494.5, 67),
            _instructions(132, 1.83e9),
            "NVIDIA H100 Tensor Core GPU data sheet, SXM",
        ),
        Ceilings(
            "H200",
            4.8e12,
            _tera(989, 494.5, 67),
            _instructions(132, 1.83e9),
            "NVIDIA H200 Tensor Core GPU data sheet, SXM",
        ),
        Ceilings(
            "B200",
            8e12,
            _tera(2250, 1100, 80),
            _instructions(148, 1.85e9),
            "NVIDIA Blackwell data sheet, HGX B200, per GPU",
        ),
    )
}
_BY_GENERATION = {8: "A100", 9: "H100", 10: "B200"}


def ceilings_of(card: Card) -> Ceilings:
    """The data sheet of a card by its name, else that of its generation's large card (the nearest below)."""
    for name, ceilings in CEILINGS.items():
        if name in card.name:
            return ceilings
    known = [major for major in _BY_GENERATION if major <= card.capability[0]]
    return CEILINGS[_BY_GENERATION[max(known, default=min(_BY_GENERATION))]]


# --- what no kernel can avoid -------------------------------------------------------------------------------


def fewest_of_share(
    channels: int, pixels: int, itemsize: int, mode: str, recompute: bool = False
) -> tuple[int, int]:
    """FLOPs and bytes of a 1x1 ConvFLU pair of C and C channels; selective_share/README.md, "Cost".

    ``mode`` is "forward" (no gates written), "backward" or "full": the training forward, which also writes
    the six gates unless it recomputes them, and the backward.
    """
    per_pixel = channels * pixels
    weights, gates = 12 * channels**2, 0 if recompute else 6
    forward = 24 * channels * per_pixel, (4 * per_pixel + weights) * itemsize
    backward = (
        (48 + 24 * recompute) * channels * per_pixel,
        ((6 + gates) * per_pixel + 2 * weights) * itemsize,
    )
    if mode == "forward":
        return forward
    if mode == "backward":
        return backward
    return forward[0] + backward[0], forward[1] + backward[1] + gates * per_pixel * itemsize


def fewest_of_norm(
    elements: int,
    itemsize: int,
    mode: str,
    running: bool = False,
    residual: bool = False,
    pooled: bool = False,
) -> int:
    """Bytes of a norm with its activation; so few FLOPs go with them that they never count.

    Statistics need x before it can be normalised, so it is read twice; the backward reads x and the gradient
    twice for the same reason. A residual is read once; in the backward its gradient is written, and y, from
    which the activation's derivative follows, read twice. Statistics, parameters and noise are left out.

    Pooled, what has y's size has a quarter, and a byte tells which pixel of each square was the largest.
    """
    if pooled:
        small = elements // 4 * (itemsize + 1)
        large = elements * itemsize
        back = (3 + residual) * large + 2 * small + 2 * elements // 4 * itemsize  # grad, y, winners twice
        return {
            "forward": (2 + residual) * large + elements // 4 * itemsize,
            "backward": back,
            "full": (2 + residual) * large + small + back,
        }[mode]
    forward = (2 if running else 3) + residual
    backward = (3 if running else 5) + 3 * residual
    return elements * itemsize * {"forward": forward, "backward": backward, "full": forward + backward}[mode]
