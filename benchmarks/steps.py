"""FERSNet's training step and its inference, on fused modules, on stock ones, and on those compiled.

A step is what the trainer does with one batch: the generator's pass, the discriminator's updates, the
generator's update with all its losses. Every provider has networks and optimisers of its own, started from
the same weights, and all get the same batch of random images.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accuracy import assert_as_accurate, assert_equal_outputs
from benchmarks.cases import Case
from benchmarks.measure import Runner
from benchmarks.memory import saved_bytes
from benchmarks.providers import BACKENDS, Unavailable, backend_context, why_not_compile
from fer_mtl.evaluation.stock import to_stock
from fer_mtl.models.identity import freeze
from fer_mtl.training.networks import Networks, build_networks, make_optimiser
from fer_mtl.training.phases import Batch, plan, take_step
from fer_mtl.training.presets import preset_config

SEED = 20209
EXPRESSIONS, SUBJECTS = 7, 16
COMPARED_STEPS, NUDGE = 3, 1e-6
TINY = {"width": 0.125, "image_size": 32}


class Step:
    """Networks with their optimisers and the phases of a batch."""

    def __init__(self, networks: Networks, config: Any) -> None:
        self.networks = networks
        self.optimisers = {
            name: make_optimiser(config, module, None) for name, module in networks.trained().items()
        }
        self.phases = plan(networks, self.optimisers, config.loss, config.discriminator_steps)

    def train(self, batch: Batch) -> dict[str, Tensor]:
        """One step; the losses by name."""
        step = take_step(batch, self.networks)
        terms: dict[str, Tensor] = {}
        for phase in self.phases:
            terms |= phase.run(step)
        return terms

    def answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Recognition and synthesis: logits and images."""
        with self.networks.autocast():
            outputs = self.networks.generator(batch.source, batch.target_label)
        return outputs["logits"], outputs["image"]

    def restart(self, first: Networks, nudge: float = 0.0) -> None:
        """Back to the first weights and buffers, the generator's times 1 + ``nudge`` x normal noise, and to
        optimisers that have seen nothing."""
        with torch.no_grad():
            for name, module in self.networks.modules().items():
                ours, theirs = (
                    (*each.parameters(), *each.buffers()) for each in (module, first.modules()[name])
                )
                for tensor, start in zip(ours, theirs, strict=True):
                    tensor.copy_(start)
            if nudge:
                for weight in self.networks.generator.parameters():
                    weight.mul_(1 + nudge * torch.randn_like(weight))
        for optimiser in self.optimisers.values():
            optimiser.state.clear()

    def set_training(self, training: bool) -> None:
        for module in self.networks.trained().values():
            module.train(training)

    def resident_bytes(self) -> int:
        """Weights, buffers, gradients and optimiser states: what stays between two steps."""
        tensors: dict[int, int] = {}
        for module in self.networks.modules().values():
            for tensor in (*module.parameters(), *module.buffers()):
                for held in (tensor, tensor.grad):
                    if held is not None:
                        tensors[held.data_ptr()] = held.nbytes
        for optimiser in self.optimisers.values():
            for state in optimiser.state.values():
                for tensor in state.values():
                    if isinstance(tensor, Tensor):
                        tensors[tensor.data_ptr()] = tensor.nbytes
        return sum(tensors.values())


class StepProviders:
    """The providers of one preset and batch size; see ``OpProviders`` for the interface."""

    def __init__(self, case: Case, device: str) -> None:
        shape = case.shape
        name, overrides = (shape.preset, {}) if shape.preset != "tiny" else ("small", {"model": TINY})
        self.config = preset_config(name, batch_size=shape.batch, precision=case.dtype, **overrides)
        torch.manual_seed(SEED)
        self.networks = build_networks(self.config, EXPRESSIONS, SUBJECTS, torch.device(device))
        identity: Any = self.networks.identity
        freeze(identity)
        self.batch = _random_batch(shape.batch, self.config.model, device)
        self._steps: dict[str, Step] = {}
        self._eager_losses: list[float] | None = None

    def runner(self, provider: str, mode: str) -> Runner:
        """Raises Unavailable with the reason."""
        step, context = self._step(provider)
        if mode == "train":
            return Runner(lambda _: step.train(self.batch), lambda: step.set_training(True), context)

        @contextlib.contextmanager
        def around() -> Any:
            with context(), torch.no_grad():
                yield

        return Runner(lambda _: step.answer(self.batch), lambda: step.set_training(False), around)

    def _step(self, provider: str) -> tuple[Step, Callable[[], Any]]:
        if provider not in self._steps:
            self._steps[provider] = self._new_step(provider)
        step = self._steps[provider]
        if provider not in BACKENDS:
            return step, contextlib.nullcontext
        return step, backend_context(provider, lambda: self._probe(step))

    def _new_step(self, provider: str) -> Step:
        """From the first weights, whatever the other providers have learnt since."""
        if provider == "compile" and (reason := why_not_compile()):
            raise Unavailable(reason)
        convert = copy.deepcopy if provider in BACKENDS else to_stock
        modules = {name: convert(part) for name, part in self.networks.modules().items()}
        networks = dataclasses.replace(self.networks, **modules)
        if provider == "compile":
            _compile(networks)
        return Step(networks, self.config)

    def _probe(self, step: Step) -> None:
        """All fused ops once, forward and backward, without an update."""
        outputs = step.networks.generator(self.batch.source, self.batch.target_label)
        torch.autograd.grad(
            outputs["image"].sum() + outputs["logits"].sum(), step.networks.generator.stem.conv.weight
        )

    def facts(self, provider: str, mode: str) -> dict[str, Any]:
        """Memory kept, FLOPs of the convolutions, and how far the losses are from eager's; checks the
        answers."""
        step, context = self._step(provider)
        found: dict[str, Any] = {}
        with context():
            if mode == "train":
                found["resident_bytes"] = step.resident_bytes()
                step.set_training(True)
                found["saved_bytes"] = saved_bytes(
                    lambda: step.answer(self.batch), ignore=tuple(step.networks.generator.parameters())
                )
        if provider == "eager":
            runner = self.runner(provider, mode)
            with FlopCounterMode(display=False) as counter:
                runner.once()
            found["flops"] = counter.get_total_flops()
        if mode == "train":
            found |= self._curve_differences(provider)
        else:
            self._check_answers(provider)
        return found

    def _curve_differences(self, provider: str) -> dict[str, float]:
        """How far a provider's generator losses are from eager's, from the same first weights; relative.

        ``loss_difference`` is that of the first step. ``curve_difference`` is the largest over a few steps:
        Adam turns the rounding of a small gradient into a whole step, so eager's own is what it does to
        itself after its weights were moved by a millionth. Under torch.compile the styles' noise comes from
        another generator; its weight starts at zero, so the losses are comparable all the same.
        """
        if self._eager_losses is None:
            self._eager_losses = self._losses("eager")
        ours = self._losses(provider, nudge=NUDGE if provider == "eager" else 0.0)
        differences = [abs(a - b) / abs(b) for a, b in zip(ours, self._eager_losses, strict=True)]
        return {"loss_difference": differences[0], "curve_difference": max(differences)}

    def _losses(self, provider: str, nudge: float = 0.0) -> list[float]:
        step, context = self._step(provider)
        step.restart(self.networks, nudge)
        step.set_training(True)
        torch.manual_seed(SEED)
        with context():
            return [float(step.train(self.batch)["generator"]) for _ in range(COMPARED_STEPS)]

    def _check_answers(self, provider: str) -> None:
        """RuntimeError unless the provider's networks answer as eager's do, from the first weights."""
        ours, stock = self._answers(provider), self._answers("eager")
        if not self.networks.bfloat16:
            assert_equal_outputs(ours, stock)
            return
        eager, _ = self._step("eager")
        eager.networks.bfloat16 = False
        try:
            exact = self._answers("eager")
        finally:
            eager.networks.bfloat16 = True
        assert_as_accurate(ours, stock, exact)

    def _answers(self, provider: str) -> tuple[Tensor, Tensor]:
        step, context = self._step(provider)
        step.restart(self.networks)
        step.set_training(False)
        torch.manual_seed(SEED)
        with context(), torch.no_grad():
            return step.answer(self.batch)


def _compile(networks: Networks) -> None:
    """Compile what a step calls, in place, so that classes and names stay."""
    torch._dynamo.reset()
    generator: Any = networks.generator
    generator.compile(dynamic=False)
    generator.synthesize = torch.compile(generator.synthesize, dynamic=False)
    if networks.discriminator is not None:
        networks.discriminator.compile(dynamic=False)
    if networks.identity is not None:
        networks.identity.features = torch.compile(networks.identity.features, dynamic=False)


def _random_batch(count: int, model: Any, device: str) -> Batch:
    generator = torch.Generator().manual_seed(SEED + 1)
    shape = (count, model.in_channels, model.image_size, model.image_size)

    def images() -> Tensor:
        faces = torch.rand(shape, generator=generator).to(device)
        return faces.contiguous(memory_format=torch.channels_last)

    def labels() -> Tensor:
        return torch.randint(EXPRESSIONS, (count,), generator=generator).to(device)

    return Batch(images(), labels(), images(), labels())
