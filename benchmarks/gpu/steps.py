"""Training steps of FERSNet, fused and stock: time, peak memory, and whether the losses agree."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cases import Case, Shape
from benchmarks.gpu.stages import Context, Failed, in_a_line
from benchmarks.gpu.timing import captured
from benchmarks.gpu.tuning import tuned
from benchmarks.measure import percentile
from benchmarks.memory import peak_bytes
from benchmarks.providers import why_not_compile
from fused_ops import explain
from fused_ops.triton_support import card_of
from fused_ops.tuning.ahead import compilers_for

STEPS, WARM_UP = 8, 3
SHAPE, TINY = Shape(64, 3, 96, "full", "paper"), Shape(2, 3, 32, "test", "tiny")
AGREE = 0.05  # of the first losses, in bfloat16


def run(context: Context) -> dict[str, Any]:
    """Fused, stock, and, while there is time, stock under torch.compile; in bfloat16 by autocast."""
    with tuned(context):
        return _run(context)


def _run(context: Context) -> dict[str, Any]:
    from benchmarks import steps

    case = Case("fersnet_step", "train", TINY if context.dry else SHAPE, "bfloat16", "channels_last", ())
    providers = steps.StepProviders(case, context.device)
    found: dict[str, Any] = {"preset": case.shape.name, "autocast": "bfloat16", "records": []}

    def fused() -> Any:
        return steps.Step(copy.deepcopy(providers.networks), providers.config)

    def stock() -> Any:
        return providers._new_step("eager")

    def compiled() -> Any:
        return providers._new_step("compile")

    if not context.dry:
        card = card_of(torch.device(context.device, 0))
        with compilers_for(card) as compilers:
            compilers.compile([lambda: without_updates(fused(), providers.batch)], context.left)
    makers = {"fused": fused, "eager": stock}
    if not context.dry and why_not_compile() is None:
        makers["compile"] = compiled
    for name, make in makers.items():
        if name == "compile" and context.left < 60:
            found["left_out"] = "torch.compile of the whole step, for want of time"
            continue
        record = measure(name, make, providers, context)
        found["records"].append(record)
        found["ratios"] = ratios(found["records"], context.dry)
        context.keep(found)
        print(record)
    losses = [record["first_loss"] for record in found["records"]]
    if not all(abs(loss - losses[1]) <= AGREE * abs(losses[1]) for loss in losses):
        raise Failed(f"the first losses differ: {losses}", found)
    return found


def without_updates(step: Any, batch: Any) -> None:
    """All that a training step launches of ours, in a rehearsal, whose losses are anything."""
    from fer_mtl.training.phases import take_step, without_gradients

    step.set_training(True)
    shared = take_step(batch, step.networks)
    for phase in step.phases:
        with without_gradients(phase.frozen):
            with phase.autocast():
                terms = phase.loss(shared)
            torch.autograd.backward(list(terms.values()))


def measure(name: str, make: Callable[[], Any], providers: Any, context: Context) -> dict[str, Any]:
    """The record of one provider, whose networks are gone when this returns."""
    step = make()
    step.set_training(True)
    torch.manual_seed(20209)

    def train() -> Any:
        return step.train(providers.batch)

    record: dict[str, Any] = {"provider": name, "first_loss": float(train()["generator"])}
    if name == "fused":
        with step.networks.autocast():
            decisions = explain(step.networks.generator, providers.batch.source, providers.batch.target_label)
        record["served_by"] = sorted({decision.backend for decision in decisions})
    for _ in range(0 if context.dry else WARM_UP):
        train()
    count = 2 if context.dry else STEPS
    times = [_timed(train, context.device) for _ in range(count)]
    seconds = percentile([whole for whole, _ in times], 0.5)
    record |= {
        "ms": _short(1e3 * seconds),
        "images_per_second": _short(providers.batch.source.size(0) / seconds),
        "peak_bytes": peak_bytes(train, context.device) + step.resident_bytes(),
        "host_ms": _short(1e3 * percentile([host for _, host in times], 0.5)),
    }
    if not context.dry:
        record |= as_graph(step, train, context.device)
    return record


def as_graph(step: Any, train: Callable[[], Any], device: str) -> dict[str, Any]:
    """The time of a step that is one CUDA graph, which no host holds up; or why it cannot be one."""
    for optimiser in step.optimisers.values():
        for group in optimiser.param_groups:
            group["capturable"] = True
    try:
        replay = captured(train)
    except RuntimeError as error:
        torch.cuda.synchronize()
        return {"not_captured": in_a_line(error)}
    times = [_timed(replay, device)[0] for _ in range(STEPS)]
    return {"graph_ms": _short(1e3 * percentile(times, 0.5))}


def ratios(records: list[dict[str, Any]], dry: bool) -> dict[str, float]:
    """How many times as fast the fused step is (not dry), started by the host and as one CUDA graph each, and
    its share of the others' peak memory."""
    by_name = {record["provider"]: record for record in records}
    ours, found = by_name["fused"], {}
    for name in ("eager", "compile"):
        if name in by_name:
            theirs = by_name[name]
            if not dry:
                found[f"x_{name}"] = _short(theirs["ms"] / ours["ms"])
                if "graph_ms" in ours and "graph_ms" in theirs:
                    found[f"x_{name}_as_graphs"] = _short(theirs["graph_ms"] / ours["graph_ms"])
            found[f"peak_to_{name}"] = _short(ours["peak_bytes"] / theirs["peak_bytes"])
    return found


def _timed(function: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds until all is done, and until the host had started it."""
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    started = time.perf_counter()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began, started - began


def _short(value: float) -> float:
    return float(f"{value:.4g}")
