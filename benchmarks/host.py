"""What a call of a layer costs the host where a card would compute: ``python -m benchmarks.host``.

Small tensors, in Triton's kernels for an H100, by a driver that starts nothing (:mod:`.stand_in`): all that
Python does is in the figures, Triton's part too; the few microseconds of CUDA's own driver are not, and
torch allocates on the CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from benchmarks import machine
from benchmarks.stand_in import Driver, driven_by
from fused_ops import FusedBatchNormAct2d, FusedGroupNormAct, FusedSelectiveShare, triton_support, use

CALLS, ROUNDS = 200, 40
Call = Callable[[], Any]


def calls(parameters: torch.dtype) -> Iterator[tuple[str, Call]]:
    """Layers of 16 channels on 4 x 4 pixels, bfloat16, channels last; their parameters in this dtype."""

    def features() -> torch.Tensor:
        return torch.randn(1, 16, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last)

    x, y = features(), features()
    share = FusedSelectiveShare(16).to(parameters)
    batch = FusedBatchNormAct2d(16, activation="relu").to(parameters)
    frozen = FusedBatchNormAct2d(16, activation="relu").to(parameters).eval()
    group = FusedGroupNormAct(4, 16, activation="silu").to(parameters)
    yield "selective_share", lambda: share(x, y)
    yield "batch norm + ReLU, evaluation", lambda: frozen(x)
    yield "batch norm + ReLU, training", lambda: batch(x)
    yield "group norm + SiLU", lambda: group(x)


def without_gradients(call: Call) -> Call:
    def run() -> None:
        with torch.no_grad():
            call()

    return run


def with_backward(call: Call) -> Call:
    def run() -> None:
        outputs = call()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.backward(outputs, outputs)

    return run


def under_autocast(call: Call) -> Call:
    def run() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return call()

    return run


def microseconds(call: Call) -> float:
    """The median of rounds, each the mean of many calls, in time of this process."""

    def round_of() -> float:
        began = time.process_time()
        for _ in range(CALLS):
            call()
        return (time.process_time() - began) / CALLS

    round_of()
    return 1e6 * statistics.median(round_of() for _ in range(ROUNDS))


def main() -> None:
    torch.set_num_threads(1)
    print(machine.describe("cpu"))
    with (
        driven_by(Driver()),
        mock.patch.object(triton_support, "why_not", lambda *_: None),
        use("triton"),
    ):
        for (name, call), (_, mixed) in zip(calls(torch.bfloat16), calls(torch.float32), strict=True):
            modes = {
                "forward": without_gradients(call),
                "forward + backward": with_backward(call),
                "the same, autocast, float32 weights": with_backward(under_autocast(mixed)),
            }
            for mode, made in modes.items():
                print(f"{name:32s} {mode:36s} {microseconds(made):6.1f} us", flush=True)


if __name__ == "__main__":
    main()
