from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fer_mtl.models.discriminator import Discriminator
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import IdentityEncoder, freeze
from fer_mtl.training import losses, phases
from fer_mtl.training.averaging import averaged_copy
from fer_mtl.training.losses import LossWeights
from fer_mtl.training.networks import Networks
from fer_mtl.training.phases import (
    Batch,
    NotFinite,
    OnlyTerm,
    Phase,
    generator_terms,
    mix_up,
    plan,
    recognition_terms,
    take_step,
    values_of,
    without_gradients,
)
from fer_mtl.training.weighting import GradientWeighting, Weighting


@pytest.fixture
def batch() -> Batch:
    return Batch(
        torch.rand(4, 3, 32, 32),
        torch.tensor([0, 1, 2, 0]),
        torch.rand(4, 3, 32, 32),
        torch.tensor([1, 2, 0, 2]),
    )


def make_networks(synthesis: bool = True, sharing: str = "convflu") -> Networks:
    options = {"image_size": 32, "width": 0.125, "sharing": sharing, "synthesis": synthesis}
    generator = FERSNet(3, **options)
    if not synthesis:
        return Networks(generator)
    identity = IdentityEncoder(2, width=0.25)
    freeze(identity)
    return Networks(generator, Discriminator(3, width=0.125), identity)


def make_plan(
    networks: Networks, weights: LossWeights | None = None, steps: int = 3, **options: Any
) -> list[Phase]:
    optimisers = {
        name: torch.optim.Adam(module.parameters(), lr=1e-3) for name, module in networks.trained().items()
    }
    return plan(networks, optimisers, weights or LossWeights(), steps, **options)


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_the_plan_is_three_discriminator_updates_and_one_of_the_generator() -> None:
    phases = make_plan(make_networks())
    assert [(phase.name, phase.repeats) for phase in phases] == [("discriminator", 3), ("generator", 1)]


def test_recognition_alone_has_one_phase_and_no_gan(batch: Batch) -> None:
    networks = make_networks(synthesis=False, sharing="none")
    (phase,) = make_plan(networks)
    assert set(phase.run(take_step(batch, networks))) == {"classification", "generator"}


def test_no_adversarial_weight_no_discriminator(batch: Batch) -> None:
    networks = make_networks()
    (phase,) = make_plan(networks, LossWeights(adversarial=0, cycle=0))
    assert set(phase.run(take_step(batch, networks))) == {"classification", "identity", "generator"}


def test_the_generator_loss_is_the_published_sum(batch: Batch) -> None:
    networks = make_networks()
    terms = make_plan(networks)[1].run(take_step(batch, networks))
    wanted = terms["classification"] + terms["identity"] + 0.3 * terms["adversarial"] + 0.5 * terms["cycle"]
    torch.testing.assert_close(terms["generator"], wanted)


def test_every_phase_moves_its_own_network_only(batch: Batch) -> None:
    networks = make_networks()
    for phase in make_plan(networks):
        step = take_step(batch, networks)
        before = {name: copies(module) for name, module in networks.modules().items()}
        phase.run(step)
        for name, module in networks.modules().items():
            moved = any(
                not torch.equal(before[name][key], value) for key, value in module.state_dict().items()
            )
            assert moved == (name == phase.name), name
    assert all(parameter.grad is None for parameter in networks.identity.parameters())


def test_the_generator_phase_leaves_no_gradient_in_the_discriminator(batch: Batch) -> None:
    networks = make_networks()
    make_plan(networks)[1].run(take_step(batch, networks))
    assert all(p.grad is None and p.requires_grad for p in networks.discriminator.parameters())


def test_repeats_are_updates(batch: Batch) -> None:
    networks = make_networks()
    phase = make_plan(networks, steps=5)[0]
    phase.run(take_step(batch, networks))
    steps = {int(state["step"]) for state in phase.optimiser.state.values()}
    assert steps == {5}


def test_an_update_goes_by_its_own_gradients(batch: Batch) -> None:
    """Not by those that an update before it has left, of which the second here would see twice as much."""
    networks = make_networks()
    phase = make_plan(networks)[1]
    phase.optimiser.param_groups[0]["lr"] = 0.0
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        phase.run(take_step(batch, networks))
        found.append([p.grad.clone() for p in networks.generator.parameters() if p.grad is not None])
    torch.testing.assert_close(found[0], found[1])


def test_the_cycle_pass_moves_no_batch_norm_statistics(batch: Batch) -> None:
    networks = make_networks()
    step = take_step(batch, networks)
    before = {name: value.clone() for name, value in networks.generator.named_buffers()}
    terms = generator_terms(
        step, networks.generator, networks.discriminator, networks.identity, LossWeights()
    )
    assert "cycle" in terms and before
    for name, value in networks.generator.named_buffers():
        assert torch.equal(before[name], value), name


def test_the_cycle_goes_back_to_the_source_expression(batch: Batch) -> None:
    networks = make_networks()
    step = take_step(batch, networks)
    terms = generator_terms(
        step, networks.generator, networks.discriminator, networks.identity, LossWeights()
    )
    back = networks.generator.synthesize(step.image, batch.source_label)
    torch.testing.assert_close(terms["cycle"], losses.cycle(back, batch.source))


def test_a_loss_that_is_not_finite_stops_before_the_update(batch: Batch) -> None:
    module = nn.Linear(2, 1)
    phase = Phase(
        "generator",
        module,
        torch.optim.SGD(module.parameters(), 0.1),
        lambda step: {"identity": module(torch.ones(1, 2)).sum() * float("nan")},
        OnlyTerm(LossWeights()),
    )
    before = copies(module)
    with pytest.raises(NotFinite, match=r"the generator loss is not finite \(identity nan\)"):
        phase.run(None)
    assert torch.equal(before["weight"], module.weight)


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_loss_that_is_far_off_decides_of_its_update_unread(
    spoiled: bool, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "is_at_hand", lambda loss: False)
    module = nn.Linear(2, 1)
    optimiser = torch.optim.Adam(module.parameters(), 0.1, fused=True)

    def loss(step: object) -> dict[str, torch.Tensor]:
        value = module(torch.ones(1, 2)).sum()
        return {"identity": value * float("nan") if spoiled else value}

    phase = Phase("generator", module, optimiser, loss, OnlyTerm(LossWeights()), repeats=2)
    before = copies(module)
    found = {"first": {"first": torch.tensor(0.5)}, "generator": phase.run(None)}
    assert torch.equal(before["weight"], module.weight) == spoiled
    assert {int(state["step"]) for state in optimiser.state.values()} == {0 if spoiled else 2}
    if spoiled:
        with pytest.raises(NotFinite, match=r"the generator loss is not finite \(identity nan\)"):
            values_of(found)
    else:
        values = values_of(found)
        assert values["first"] == 0.5 and values["generator"] == float(found["generator"]["identity"])
    optimiser.step()  # as ever


def test_gradients_that_are_computed_with_are_finite(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "is_at_hand", lambda loss: False)
    pytest.importorskip("torchjd")
    module, weights = nn.Linear(2, 1), LossWeights()
    optimiser = torch.optim.Adam(module.parameters(), fused=True)

    def loss(step: object) -> dict[str, torch.Tensor]:
        value = module.weight.sum() / 0
        return {"classification": value, "identity": value}

    phase = Phase("generator", module, optimiser, loss, GradientWeighting(weights, "mgda"))
    with pytest.raises(NotFinite, match="the generator loss is not finite"):
        phase.run(None)


def test_frozen_modules_pass_gradients_on_and_thaw_after_errors() -> None:
    frozen, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    frozen.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), without_gradients((frozen,)):
        frozen(x).sum().backward()
        raise ZeroDivisionError
    assert frozen.weight.grad is None and x.grad is not None
    assert frozen.weight.requires_grad and not frozen.bias.requires_grad


def test_the_average_reads_the_expression_and_learns_nothing(batch: Batch) -> None:
    networks = make_networks()
    networks.averaged = averaged_copy(networks.generator)
    weights = LossWeights(identity=0, adversarial=0, cycle=0, expression=2.0)
    (phase,) = make_plan(networks, weights, look=lambda images: images.flip(3))
    step = take_step(batch, networks)
    with torch.no_grad():
        logits = networks.averaged(step.image.flip(3))["logits"]
    before, decoder = copies(networks.averaged), copies(networks.generator.decoder)
    terms = phase.run(step)
    torch.testing.assert_close(terms["expression"], losses.classification(logits, batch.target_label))
    torch.testing.assert_close(terms["generator"], terms["classification"] + 2 * terms["expression"])
    assert all(torch.equal(value, before[name]) for name, value in copies(networks.averaged).items())
    after = copies(networks.generator.decoder)
    assert any(not torch.equal(after[name], decoder[name]) for name in decoder)


def test_mixed_faces_have_mixed_labels(batch: Batch) -> None:
    mixed = mix_up(batch, 0.5, 3, torch.Generator().manual_seed(0))
    assert mixed.mixed_label is not None
    torch.testing.assert_close(mixed.mixed_label.sum(1), torch.ones(4))
    assert (mixed.mixed_label[torch.arange(4), batch.source_label] >= 0.5).all()
    assert not torch.equal(mixed.source, batch.source) and torch.equal(mixed.target, batch.target)
    # Every face is mixed with one other, by the share that its label says.
    for k in (1, 2):  # those whose expression nobody else in the batch has
        mixtures = torch.lerp(batch.source[k], batch.source, 1 - mixed.mixed_label[k, k])
        assert any(torch.allclose(mixed.source[k], mixture, atol=1e-6) for mixture in mixtures)


def test_steps_without_synthesis_train_recognition_alone(batch: Batch) -> None:
    networks = make_networks()
    optimisers = {name: torch.optim.Adam(m.parameters()) for name, m in networks.trained().items()}
    (phase,) = plan(networks, optimisers, LossWeights(), synthesise=False)
    before = copies(networks.generator.decoder)
    step = take_step(batch, networks, synthesise=False)
    assert len(step.image) == 0
    assert set(phase.run(step)) == {"classification", "generator"}
    assert all(torch.equal(value, before[name]) for name, value in copies(networks.generator.decoder).items())


@pytest.mark.parametrize("synthesis", [True, False])
def test_bfloat16_is_for_what_is_computed_and_not_for_weights_and_losses(
    batch: Batch, synthesis: bool
) -> None:
    networks = make_networks(synthesis, "convflu" if synthesis else "none")
    networks.bfloat16 = True
    networks.averaged = averaged_copy(networks.generator)
    seen: set[torch.dtype] = set()

    def note(_: nn.Module, __: Any, found: torch.Tensor) -> None:
        seen.add(found.dtype)

    for module in networks.modules().values():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(note)
    before = copies(networks.generator)
    weights = LossWeights(expression=1.0)
    for phase in make_plan(networks, weights):
        terms = phase.run(take_step(batch, networks))
        assert {term.dtype for term in terms.values()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    assert seen == {torch.bfloat16}
    after = networks.generator.state_dict()
    assert all(tensor.dtype == before[name].dtype for name, tensor in after.items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_the_penalty_is_one_of_weights_and_so_not_rounded(batch: Batch) -> None:
    networks = make_networks(True, "sluice")
    networks.bfloat16 = True
    exact = networks.generator.sharing_penalty()
    step = take_step(batch, networks)
    with networks.autocast():
        terms = recognition_terms(step, networks.generator, LossWeights())
    assert terms["penalty"].dtype == torch.float32 and torch.equal(terms["penalty"], exact)


def test_the_backward_pass_runs_outside_autocast(batch: Batch) -> None:
    networks = make_networks()
    networks.bfloat16 = True
    seen = []

    class Noting(Weighting):
        def backward(self, *arguments: Any) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))
            super().backward(*arguments)

    networks.weighting = Noting(LossWeights())
    for phase in make_plan(networks):
        phase.run(take_step(batch, networks))
    assert seen == [False]


def test_bfloat16_takes_the_same_way_as_float32(batch: Batch) -> None:
    """The first update's losses, within what bfloat16 keeps of a number (2^-8) layer upon layer."""
    found = []
    for bfloat16 in (False, True):
        torch.manual_seed(3)
        networks = make_networks()
        networks.bfloat16 = bfloat16
        terms: dict[str, torch.Tensor] = {}
        for phase in make_plan(networks, steps=1):
            terms |= phase.run(take_step(batch, networks))
        found.append(terms)
    for name, term in found[0].items():
        torch.testing.assert_close(found[1][name], term, rtol=0.05, atol=0.02)
