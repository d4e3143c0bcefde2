"""Time per image, fused against unfused, in alternation, so that drift of the machine hits both alike."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from fer_mtl.evaluation.stock import to_stock
from fer_mtl.models.fersnet import FERSNet


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each call over ``rounds`` rounds of all in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def time_per_image(model: FERSNet, batch_size: int = 16, rounds: int = 15) -> dict[str, Any]:
    """Milliseconds per image of ``model`` with its fused ops and of its twin in stock PyTorch modules.

    "inference" recognises and redraws a batch without gradients in eval mode; "training" is forward and
    backward of the same in training mode. Both work on copies; ``model`` stays as it is.
    """
    config = model.config
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config["in_channels"], config["image_size"], config["image_size"])
    images = torch.rand(shape, generator=generator).to(parameter)
    labels = torch.randint(config["num_expressions"], (batch_size,), generator=generator).to(parameter.device)
    wanted = labels if config["synthesis"] else None
    networks = {"fused": copy.deepcopy(model), "unfused": to_stock(model)}

    def run(network: torch.nn.Module, training: bool) -> None:
        with torch.set_grad_enabled(training):
            outputs = network(images, wanted)
        if training:
            loss = sum(
                outputs[key].square().mean() for key in ("logits", "image") if outputs[key] is not None
            )
            loss.backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    result: dict[str, Any] = {"batch": batch_size, "rounds": rounds, "unit": "ms per image, median"}
    for mode in ("inference", "training"):
        calls = {
            name: partial(run, network.train(mode == "training"), mode == "training")
            for name, network in networks.items()
        }
        seconds = interleaved(calls, rounds)
        result[mode] = {name: 1000 * value / batch_size for name, value in seconds.items()}
    return result
