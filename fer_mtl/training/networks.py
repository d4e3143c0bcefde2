"""The networks of a run, built from its configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fer_mtl.models.discriminator import Discriminator
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import FeatureNetwork, IdentityEncoder, LightCNN9
from fer_mtl.training.averaging import averaged_copy
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.starting import start_from
from fer_mtl.training.weighting import Weighting, make_weighting


@dataclasses.dataclass
class Networks:
    """What is trained (generator, discriminator), what only looks on (identity, frozen), the running average
    of the generator where one is kept, and what weighs the tasks where that is learnt.

    Recognition alone needs no more than the generator.
    """

    generator: FERSNet
    discriminator: Discriminator | None = None
    identity: FeatureNetwork | None = None
    averaged: FERSNet | None = None
    weighting: Weighting | None = None
    bfloat16: bool = False
    """Whether what they compute in training is bfloat16 where that does no harm."""

    @property
    def used(self) -> FERSNet:
        """The generator that is tested and kept: the average where there is one."""
        return self.generator if self.averaged is None else self.averaged

    def modules(self) -> dict[str, torch.nn.Module]:
        """All of them by name."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: module for name, module in found.items() if isinstance(module, torch.nn.Module)}

    def autocast(self) -> torch.autocast:
        """The precision of passes and losses. Backward passes belong outside: they follow the forward's."""
        device = next(self.generator.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.bfloat16)

    def trained(self) -> dict[str, torch.nn.Module]:
        """Those that have an optimiser, by name; the generator's moves the weighting too."""
        modules = self.modules()
        return {name: modules[name] for name in ("generator", "discriminator") if name in modules}


def choose_device(name: str) -> torch.device:
    """ "auto" takes a CUDA device where there is one. "cuda" without one is a ``ValueError``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu or auto where torch finds no CUDA device, got 'cuda'")
    return torch.device(name)


def build_networks(
    config: TrainConfig, num_expressions: int, num_subjects: int | None, device: torch.device
) -> Networks:
    """Fresh networks; the generator is drawn first, so runs of one seed that differ elsewhere start from the
    same one. The identity encoder is still untrained, LightCNN-9 has its weights; where nobody knows who is
    who (``num_subjects`` None) and there is no LightCNN-9, there is no identity network.

    Raises ``ValueError`` for training images of one expression, or of one person where that is to be told
    from others; and as :meth:`LightCNN9.from_file` and :func:`start_from` do."""
    model = config.model
    if num_expressions < 2:
        raise ValueError(f"the data must show 2 or more expressions, got {num_expressions}")
    if model.synthesis and config.identity.weights is None and num_subjects == 1:
        raise ValueError(
            "the training images must show 2 or more subjects for the identity encoder to tell apart, got 1 "
            "(recognition alone needs none: --method baseline)"
        )
    place: dict[str, Any] = {
        "device": device,
        "memory_format": torch.channels_last,
    }  # the faster convolutions
    generator = FERSNet(num_expressions, **dataclasses.asdict(model)).to(**place)
    if config.init is not None:
        start_from(generator, config.init, config.restart)
    averaged = averaged_copy(generator) if config.average else None
    bfloat16 = config.precision == "bfloat16"
    if not model.synthesis:
        return Networks(generator, averaged=averaged, bfloat16=bfloat16)
    discriminator = Discriminator(num_expressions, model.in_channels, model.width).to(**place)
    identity: IdentityEncoder | LightCNN9 | None = None
    if config.identity.weights is not None:
        identity = LightCNN9.from_file(config.identity.weights).to(**place)
    elif num_subjects is not None:
        identity = IdentityEncoder(num_subjects, model.in_channels, config.identity.width).to(**place)
    weighting = make_weighting(config.weighting, config.loss).to(device)
    return Networks(generator, discriminator, identity, averaged, weighting, bfloat16)


def make_optimiser(
    config: TrainConfig, module: torch.nn.Module, weighting: torch.nn.Module | None
) -> torch.optim.Adam:
    """Adam for a network and, without decay, for what weighs its tasks.

    One kernel updates a weight (``fused``), which took a tenth off a small network's step on a CPU.
    """
    groups: list[dict[str, Any]] = [{"params": list(module.parameters())}]
    learnt = [] if weighting is None else list(weighting.parameters())
    if learnt:
        groups.append({"params": learnt, "weight_decay": 0.0})
    chosen = config.optimiser
    optimiser = torch.optim.Adam(
        groups, lr=chosen.learning_rate, betas=chosen.betas, weight_decay=chosen.weight_decay, fused=True
    )
    optimiser.register_step_pre_hook(_lay_out_gradients)
    return optimiser


def _lay_out_gradients(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    """Give every gradient its weight's strides: on a CPU the fused update walks both in the order of memory,
    without a look at strides (torch 2.13), and task weighting by gradients leaves contiguous ones."""
    for group in optimiser.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and not _lie_alike(weight.grad, weight):
                weight.grad = torch.empty_like(weight).copy_(weight.grad)


def _lie_alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one shape have their elements in one order: steps that none takes do not count,
    such as those of a 1 x 1 kernel's pixels."""
    return a.stride() == b.stride() or all(
        size == 1 or ours == theirs
        for size, ours, theirs in zip(a.shape, a.stride(), b.stride(), strict=True)
    )
