"""FERSNet's training step where no kernel runs: the memory it takes, and how long the host needs to start it.

``python -m benchmarks.null_card python -m benchmarks.null_card.steps``: the preset `paper`, batch 64,
bfloat16 by autocast, channels_last, as in ``make gpu``. Memory is what torch's allocator gives out,
without what cuDNN takes for its own work. The host's time is the least of many steps, of this process
alone, those of both in turn.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import machine
from benchmarks.cases import Case
from benchmarks.gpu.steps import SHAPE
from benchmarks.memory import peak_bytes
from benchmarks.steps import Step, StepProviders

WARM_UP, STEPS = 3, 100


def seconds(train: Callable[[], Any]) -> float:
    began = time.process_time()
    train()
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, commit {machine.commit()}")
    providers = StepProviders(Case("fersnet_step", "train", SHAPE, "bfloat16", "channels_last", ()), "cuda")
    steps = {
        "fused": Step(copy.deepcopy(providers.networks), providers.config),
        "eager": providers._new_step("eager"),
    }
    calls: dict[str, Callable[[], Any]] = {}
    peak: dict[str, int] = {}
    for name, step in steps.items():
        step.set_training(True)
        calls[name] = functools.partial(step.train, providers.batch)
        for _ in range(WARM_UP):
            calls[name]()
        peak[name] = peak_bytes(calls[name], "cuda") + step.resident_bytes()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(STEPS):
        for name, call in calls.items():
            times[name].append(seconds(call))
    host = {name: min(found) for name, found in times.items()}
    for name in calls:
        print(f"{name:6s} peak {peak[name] / 2**20:7.0f} MiB, host {1e3 * host[name]:6.1f} ms")
    memory, time_of_host = (found["fused"] / found["eager"] for found in (peak, host))
    print(f"fused / eager: memory {memory:.3f}, host {time_of_host:.2f}")


if __name__ == "__main__":
    main()
