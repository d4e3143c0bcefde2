"""Time per image, fused against unfused, in alternation, so that drift of the machine hits both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from fer_mtl.models.fersnet import FERSNet
from fused_ops import use


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
    """Milliseconds per image of ``model`` with the fused backends and with plain PyTorch ("reference").

    "inference" recognises and redraws a batch without gradients in eval mode; "training" is forward and
    backward of the same in training mode, with the network's state put back afterwards.
    """
    config = model.config
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config["in_channels"], config["image_size"], config["image_size"])
    images = torch.rand(shape, generator=generator).to(parameter)
    labels = torch.randint(config["num_expressions"], (batch_size,), generator=generator).to(parameter.device)
    wanted = labels if config["synthesis"] else None
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    was_training = model.training

    def forward() -> torch.Tensor:
        outputs = model(images, wanted)
        loss: torch.Tensor = outputs["logits"].square().mean()
        if outputs["image"] is not None:
            loss = loss + outputs["image"].square().mean()
        if images.is_cuda:
            torch.cuda.synchronize()
        return loss

    def inference(backend: str) -> None:
        with use(backend), torch.no_grad():
            forward()

    def training(backend: str) -> None:
        with use(backend):
            forward().backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    result: dict[str, Any] = {"batch": batch_size, "rounds": rounds, "unit": "ms per image, median"}
    for mode, call in (("inference", inference), ("training", training)):
        model.train(mode == "training")
        seconds = interleaved({"fused": partial(call, "auto"), "unfused": partial(call, "reference")}, rounds)
        result[mode] = {name: 1000 * value / batch_size for name, value in seconds.items()}
    model.zero_grad(set_to_none=True)
    model.load_state_dict(state)
    model.train(was_training)
    return result
