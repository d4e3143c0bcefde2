"""Which calls torch.compile is shown as plain PyTorch, since Inductor makes that at least as quick.

An op is a wall to Inductor, which would otherwise make one loop of everything element by element between two
walls. So a norm with given statistics (evaluation) costs Inductor no more than us, and less by every
neighbour that it fuses with it. Where there are sums to be made, Inductor reads the input once more, as our
split rows do, and seldom keeps a row on chip; pooling it makes in a pass of its own; and of a ConvFLU pair it
makes the library's products with every gate written between them, which is what our CUDA C++ path does with
fewer passes. On a GPU the cost model compares the two; a tie goes to Inductor only where all is one loop.

On the CPU this was measured (two threads, AVX-512; time of Inductor's loops over that of our op): a norm with
given statistics, alone 0.6 to 0.9 for 1,180,000 elements, 0.4 for 18,000; with neighbours 0.3 to 0.7; only
alone in bfloat16 and channels_last 1.0 to 1.1. Small calls that eager leaves to torch's kernels
(:mod:`fused_ops.tuning.small_calls`) are left to Inductor's as well: forward and backward 0.5 to 0.8.
"""

from __future__ import annotations

from typing import Any

from fused_ops.tuning import dispatch, small_calls
from fused_ops.tuning.cost_model import LAUNCH_SECONDS, Kernel, ceilings_of
from fused_ops.tuning.cost_norm import NormCall
from fused_ops.tuning.small_calls import Kind

# What one program of Inductor's reductions holds: elements of a row that lie side by side, or apart.
ROW, ROW_APART = 1024, 64
CLEARLY = 0.9  # the model tells no smaller differences
NORMS = ("norm_act", "norm_act_backward")
ONE_LOOP = "under torch.compile Inductor makes one loop of it and its neighbours"


def why_aside(op: str, args: tuple[Any, ...], backend: str) -> str | None:
    """Why a traced call that this backend would serve is left to Inductor, or None where it is not."""
    if op not in NORMS or args[0].device.type not in ("cpu", "cuda") or not args[0].numel():
        return None
    backward = op == "norm_act_backward"
    x, given = (args[1], args[10]) if backward else (args[0], args[6] is not None)
    loop = given and not (backward and args[-4])  # the gradients of gamma and beta are sums
    if x.device.type == "cpu":
        groups = args[11] if backward else args[8]
        own: Kind = "batch" if not groups else "instance" if groups == x.size(1) else "group"
        kind = "running" if given else own
        return ONE_LOOP if loop else small_calls.quicker_in_steps(x, kind, alone=False)
    card, call = dispatch.norm_call(op, args)
    ceilings = ceilings_of(card)
    ours = ceilings.seconds(dispatch.norm_kernels(card, call, backward)[backend], "half")
    theirs = ceilings.seconds(kernels(call, backward, loop), "half")
    if theirs < CLEARLY * ours:
        return (
            f"under torch.compile Inductor is predicted to take {_micro(theirs)}, {backend!r} {_micro(ours)}"
        )
    if loop and theirs <= ours:
        return f"{ONE_LOOP}: {_micro(theirs - LAUNCH_SECONDS)} and a launch at most, as {backend!r} takes"
    return None


def kernels(call: NormCall, backward: bool, loop: bool) -> list[Kernel]:
    """The launches that Inductor makes of the reference; ``loop``: there are no sums."""
    reads = 2 + call.kept if backward else 1 + call.residual
    writes = 1 + call.residual if backward else 1
    statistics = 2 * call.geometry.statistics
    if loop:
        return [call.kernel("loop", reads + writes, statistics)]
    row = call.geometry.length * call.geometry.span
    if row <= (ROW_APART if call.geometry.channels_last else ROW) and not call.given:
        return [call.kernel("row", reads + writes, statistics)]
    return [
        call.kernel("partial", reads if backward else 1),
        call.kernel("sums", 0, 2 * statistics),
        call.kernel("loop", reads + writes, 2 * statistics),
    ]


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} us"
