"""FERSNet's training step where no kernel runs: the memory it takes, and how long the host needs to start it.

``python -m benchmarks.null_card python -m benchmarks.null_card.steps``: the preset `paper`, batch 64,
bfloat16 by autocast, channels_last, as in ``make gpu``. Memory is what torch's allocator gives out,
without what cuDNN takes for its own work. The host's time is the least of many steps, of this process
alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from benchmarks import machine
from benchmarks.cases import Case
from benchmarks.gpu.steps import SHAPE
from benchmarks.memory import peak_bytes
from benchmarks.steps import Step, StepProviders

WARM_UP, STEPS = 3, 20


def seconds(train: Callable[[], Any]) -> float:
    began = time.process_time()
    train()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, commit {machine.commit()}")
    providers = StepProviders(Case("fersnet_step", "train", SHAPE, "bfloat16", "channels_last", ()), "cuda")
    found: dict[str, tuple[int, float]] = {}
    # A loss that nobody computed is anything.
    with mock.patch.object(torch, "isfinite", lambda _: True):
        for name in ("fused", "eager"):
            step = (
                Step(copy.deepcopy(providers.networks), providers.config)
                if name == "fused"
                else providers._new_step(name)
            )
            step.set_training(True)

            def train(step: Step = step) -> Any:
                return step.train(providers.batch)

            for _ in range(WARM_UP):
                train()
            peak = peak_bytes(train, "cuda") + step.resident_bytes()
            found[name] = peak, min(seconds(train) for _ in range(STEPS))
            del step, train
    for name, (peak, host) in found.items():
        print(f"{name:6s} peak {peak / 2**20:7.0f} MiB, host {1e3 * host:6.1f} ms")
    (ours, host), (theirs, their_host) = found["fused"], found["eager"]
    print(f"fused / eager: memory {ours / theirs:.3f}, host {host / their_host:.2f}")


if __name__ == "__main__":
    main()
