from __future__ import annotations

import pytest
import torch

from benchmarks.cases import Case, Shape
from benchmarks.providers import Unavailable
from benchmarks.steps import StepProviders


def make_providers(dtype: str) -> StepProviders:
    case = Case("fersnet_step", "train", Shape(2, 3, 32, "test", "tiny"), dtype, "channels_last", ())
    return StepProviders(case, "cpu")


@pytest.fixture(scope="module")
def providers() -> StepProviders:
    return make_providers("float32")


def test_fused_and_stock_steps_have_the_same_losses(providers) -> None:
    facts = providers.facts("reference", "train")
    assert facts["loss_difference"] < 1e-4
    assert facts["curve_difference"] < 0.2  # Adam's first steps magnify roundings
    eager = providers.facts("eager", "train")
    assert eager["curve_difference"] > 1e-4  # as they do eager's own
    assert facts["saved_bytes"] < eager["saved_bytes"]


def test_what_is_resident_is_weights_gradients_and_two_averages(providers) -> None:
    providers.runner("eager", "train").once()
    step = providers._steps["eager"]
    trained = sum(p.nbytes for m in step.networks.trained().values() for p in m.parameters())
    assert 4 * trained <= step.resident_bytes() < 4.3 * trained


def test_answers_are_those_of_the_stock_network(providers) -> None:
    facts = providers.facts("reference", "inference")  # raises where they are not
    assert "loss_difference" not in facts
    assert providers.facts("eager", "inference")["flops"] > 1e6


def test_wrong_answers_are_no_result(providers, monkeypatch) -> None:
    providers._step("reference")
    step = providers._steps["reference"]
    monkeypatch.setattr(
        step, "answer", lambda batch: tuple(2 * part for part in type(step).answer(step, batch))
    )
    with pytest.raises(RuntimeError, match="differ"):
        providers.facts("reference", "inference")


def test_in_bfloat16_answers_may_be_as_far_off_as_the_stock_network_s(monkeypatch) -> None:
    providers = make_providers("bfloat16")
    providers.facts("reference", "inference")
    logits, _ = providers.runner("reference", "inference").once()
    assert logits.dtype == torch.bfloat16
    assert providers.facts("reference", "train")["loss_difference"] < 0.05
    step = providers._steps["reference"]
    monkeypatch.setattr(
        step, "answer", lambda batch: tuple(1.2 * part for part in type(step).answer(step, batch))
    )
    with pytest.raises(RuntimeError, match="roundings off"):
        providers.facts("reference", "inference")


def test_inference_takes_no_gradients_and_training_moves_weights(providers) -> None:
    step, _ = providers._step("eager")
    logits, image = providers.runner("eager", "inference").once()
    assert not logits.requires_grad and image.shape == (2, 3, 32, 32)
    before = step.networks.generator.classifier.linear.weight.clone()
    providers.runner("eager", "train").once()
    assert not before.equal(step.networks.generator.classifier.linear.weight)
    step.restart(providers.networks)
    assert not any(optimiser.state for optimiser in step.optimisers.values())
    assert providers.networks.generator.classifier.linear.weight.equal(
        step.networks.generator.classifier.linear.weight
    )


def test_a_backend_that_is_not_there_is_unavailable(providers) -> None:
    with pytest.raises(Unavailable):
        providers.runner("triton", "train")
