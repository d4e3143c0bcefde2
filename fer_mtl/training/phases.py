"""One training step as data: a list of phases, each a module, its optimiser, its loss and how often it is
updated.

    L_G = L_cls + L_idn + 0.3 L_adv + 0.5 L_cyc,   L_D as in :mod:`fer_mtl.training.losses`,

with several updates of the discriminator for each one of the generator (Zhao et al., ICPR 2020, and its
public training code). The discriminator comes first, so that one pass of the generator serves both: its
detached image for the former, its graph for the latter. Without synthesis one phase is left, with L_cls
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.optim import Optimizer

from fer_mtl.models.discriminator import Discriminator
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import FeatureNetwork
from fer_mtl.models.statistics import frozen_statistics
from fer_mtl.training import losses
from fer_mtl.training.losses import LossWeights
from fer_mtl.training.networks import Networks
from fer_mtl.training.weighting import Weighting

Terms = dict[str, torch.Tensor]
View = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(images: torch.Tensor) -> torch.Tensor:
    return images


@dataclass(frozen=True)
class Batch:
    """Pairs of one subject each, or of anybody where nobody knows who is who: faces float ``[N, C, S, S]`` in
    [0, 1], labels int64 ``[N]``."""

    source: torch.Tensor
    source_label: torch.Tensor
    target: torch.Tensor
    target_label: torch.Tensor
    mixed_label: torch.Tensor | None = None
    """Where sources are mixtures: the shares of the expressions in them, float ``[N, E]``."""

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Step:
    """What the phases of one batch share: the batch, and the generator's answer to it, made once."""

    batch: Batch
    logits: torch.Tensor
    image: torch.Tensor
    """The synthesised faces; empty in a plan without synthesis, where no phase looks at them."""


@dataclass(frozen=True)
class Phase:
    """``repeats`` updates of ``module`` by ``optimiser``.

    ``loss`` gives the terms by name, in the precision of ``autocast``; ``weighting`` weighs, adds and
    differentiates them. The ``frozen`` modules take part in the loss but gather no gradient.
    """

    name: str
    module: nn.Module
    optimiser: Optimizer
    loss: Callable[[Step], Terms]
    weighting: Weighting
    repeats: int = 1
    frozen: tuple[nn.Module, ...] = ()
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    def run(self, step: Step) -> Terms:
        """Do the updates; return the last one's terms and, under the phase's name, their total, all detached.

        An update that a NaN or an infinite loss would spoil is not made: ``NotFinite`` is raised, where the
        loss is at hand, or else by :func:`values_of`.
        """
        terms: Terms = {}
        with without_gradients(self.frozen):
            for _ in range(self.repeats):
                with self.autocast():
                    terms = self.loss(step)
                total = self.weighting.total(terms)
                finite = torch.isfinite(total)
                asked = is_at_hand(total) or self.weighting.reads_gradients
                if asked and not finite:
                    raise NotFinite(self.name, terms)
                self.optimiser.zero_grad(set_to_none=True)
                self.weighting.backward(terms, total, list(self.module.parameters()))
                with nullcontext() if asked else unless(~finite, self.optimiser):
                    self.optimiser.step()
                terms = {**terms, self.name: total}
        return {name: term.detach() for name, term in terms.items()}


class NotFinite(RuntimeError):
    """A loss became NaN or infinite; the update was not made."""

    def __init__(self, phase: str, terms: Mapping[str, torch.Tensor]) -> None:
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        super().__init__(f"the {phase} loss is not finite ({values})")


def is_at_hand(loss: torch.Tensor) -> bool:
    """Whether a loss can be read without waiting. A GPU computes it later than the host asks, and has nothing
    to do while that waits for the answer before it starts what follows."""
    return not loss.is_cuda


@contextmanager
def unless(spoiled: torch.Tensor, optimiser: Optimizer) -> Iterator[None]:
    """Inside, a fused optimiser's update changes nothing where ``spoiled``, a bool on its device, is True.

    That is how torch's ``GradScaler`` has updates left out.
    """
    optimiser.found_inf = spoiled.float()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimiser.found_inf  # type: ignore[attr-defined]


def values_of(found: Mapping[str, Terms]) -> dict[str, float]:
    """What phases returned, by their names, as numbers; all in one transfer.

    Raises ``NotFinite`` for the first phase whose total is not finite.
    """
    names = [name for terms in found.values() for name in terms]
    tensors = [term for terms in found.values() for term in terms.values()]
    values = dict(zip(names, torch.stack(tensors).tolist(), strict=True))
    for phase, terms in found.items():
        if not math.isfinite(values[phase]):
            raise NotFinite(phase, {name: term for name, term in terms.items() if name != phase})
    return values


@contextmanager
def without_gradients(modules: Sequence[nn.Module]) -> Iterator[None]:
    """The modules' parameters gather no gradient inside; gradients still flow through to their inputs."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def take_step(batch: Batch, networks: Networks, synthesise: bool = True) -> Step:
    """The one pass of the generator that all phases of a batch build on; without ``synthesise``, or without
    a discriminator, it does not draw."""
    synthesise = synthesise and networks.discriminator is not None
    with networks.autocast():
        outputs = networks.generator(batch.source, batch.target_label if synthesise else None)
    return Step(batch, outputs["logits"], outputs["image"] if synthesise else batch.source[:0])


def mix_up(batch: Batch, largest: float, num_expressions: int, generator: torch.Generator) -> Batch:
    """Each source with a share of up to ``largest`` of another one, and labels to match (Zhang et al.,
    "mixup: Beyond Empirical Risk Minimization", ICLR 2018, with a uniform share)."""
    other = torch.randperm(len(batch), generator=generator).to(batch.source.device)
    share = largest * torch.rand(len(batch), 1, generator=generator).to(batch.source.device)
    codes = one_hot(batch.source_label, num_expressions).to(batch.source.dtype)
    pixels = share[:, :, None, None]
    return replace(
        batch,
        source=(1 - pixels) * batch.source + pixels * batch.source[other],
        mixed_label=(1 - share) * codes + share * codes[other],
    )


def recognition_terms(
    step: Step, generator: FERSNet, weights: LossWeights, label_smoothing: float = 0.0
) -> Terms:
    """What recognition alone needs: L_cls, and the penalty of the way of sharing where it has one."""
    batch = step.batch
    labels = batch.source_label if batch.mixed_label is None else batch.mixed_label
    terms = {"classification": losses.classification(step.logits, labels, label_smoothing=label_smoothing)}
    # On the weights themselves, which autocast would round before it multiplies them.
    with torch.autocast(step.logits.device.type, enabled=False):
        penalty = generator.sharing_penalty() if weights.penalty else None
    return terms if penalty is None else {**terms, "penalty": penalty}


def discriminator_terms(step: Step, discriminator: Discriminator) -> Terms:
    batch = step.batch
    real = discriminator(batch.target, batch.target_label)
    fake = discriminator(step.image.detach(), batch.target_label)
    return {"discriminator": losses.discriminator(real, fake)}


def generator_terms(
    step: Step,
    generator: FERSNet,
    discriminator: Discriminator,
    identity: FeatureNetwork | None,
    weights: LossWeights,
    label_smoothing: float = 0.0,
    reader: FERSNet | None = None,
    look: View = as_it_is,
) -> Terms:
    """The terms of L_G; one whose weight is 0 is not computed. ``reader`` (frozen, in evaluation mode) is
    needed where the expression of the synthesised faces counts; ``look`` is how it sees them."""
    batch, image = step.batch, step.image
    terms = recognition_terms(step, generator, weights, label_smoothing)
    if weights.identity:
        terms["identity"] = losses.identity(image, batch.target, identity, weights.features)
    if weights.adversarial:
        terms["adversarial"] = losses.adversarial(discriminator(image, batch.target_label))
    if weights.cycle:
        # Synthesised faces must not move the statistics that recognition uses on real ones.
        with frozen_statistics(generator):
            back = generator.synthesize(image, batch.source_label)
        terms["cycle"] = losses.cycle(back, batch.source)
    if weights.expression and reader is not None:
        # A slow average, which gets no gradient, cannot learn to read what is not to be seen.
        # Seen from ever other places, as in training, an expression takes more than a pattern of pixels.
        terms["expression"] = losses.classification(reader(look(image))["logits"], batch.target_label)
    return terms


class OnlyTerm(Weighting):
    """For a phase with one term: its total is that term."""

    def total(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        (term,) = terms.values()
        return term


def plan(
    networks: Networks,
    optimisers: Mapping[str, Optimizer],
    weights: LossWeights,
    discriminator_steps: int = 1,
    *,
    synthesise: bool = True,
    label_smoothing: float = 0.0,
    look: View = as_it_is,
) -> list[Phase]:
    """The phases of one batch, in their order.

    ``optimisers`` has one per trained network, by name. Without a discriminator, or with an adversarial
    weight of 0, the discriminator is not trained. Without ``synthesise`` the batch trains recognition alone.
    """
    generator, discriminator = networks.generator, networks.discriminator
    weighting = networks.weighting or Weighting(weights)
    generator_phase = partial(
        Phase,
        "generator",
        generator,
        optimisers["generator"],
        weighting=weighting,
        autocast=networks.autocast,
    )
    if discriminator is None or not synthesise:
        terms = partial(
            recognition_terms, generator=generator, weights=weights, label_smoothing=label_smoothing
        )
        return [generator_phase(terms)]
    terms = partial(
        generator_terms,
        generator=generator,
        discriminator=discriminator,
        identity=networks.identity,
        weights=weights,
        label_smoothing=label_smoothing,
        reader=networks.averaged,
        look=look,
    )
    phases = [generator_phase(terms, frozen=(discriminator,))]
    if weights.adversarial:
        phases.insert(
            0,
            Phase(
                "discriminator",
                discriminator,
                optimisers["discriminator"],
                partial(discriminator_terms, discriminator=discriminator),
                OnlyTerm(weights),
                repeats=discriminator_steps,
                autocast=networks.autocast,
            ),
        )
    return phases
