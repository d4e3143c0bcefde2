import pytest
import torch
import torch.nn.functional as F

from fer_mtl.models.identity import IdentityEncoder, freeze
from fer_mtl.training import losses
from fer_mtl.training.losses import LossWeights


def test_published_weights():
    weights = LossWeights()
    assert (weights.classification, weights.identity, weights.adversarial, weights.cycle) == (
        1.0,
        1.0,
        0.3,
        0.5,
    )


def test_classification_is_cross_entropy():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(1.0)))) / 2
    torch.testing.assert_close(losses.classification(logits, labels), expected)
    weighted = losses.classification(logits, torch.tensor([0, 1]), class_weights=torch.tensor([1.0, 3.0]))
    assert weighted > losses.classification(logits, torch.tensor([0, 1]))


def test_smoothing_spreads_a_share_of_the_label_over_all_classes():
    logits, label = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    expected = -(logits.log_softmax(1) * torch.tensor([0.8, 0.1, 0.1])).sum()
    torch.testing.assert_close(losses.classification(logits, label, label_smoothing=0.3), expected)


class Doubling:
    def features(self, images):
        return 2 * images


def test_identity_compares_grey_pixels_and_features():
    output, target = torch.full((1, 3, 2, 2), 0.5, requires_grad=True), torch.zeros(1, 3, 2, 2)
    assert losses.identity(output, target).item() == pytest.approx(0.5)
    assert losses.identity(output, target, Doubling()).item() == pytest.approx(0.5 + 0.05 * 1.0)
    assert losses.identity(output, target, Doubling(), feature_weight=1.0).item() == pytest.approx(1.5)
    shifted = losses.identity(output, target + 0.25, Doubling(), feature_weight=1.0)
    assert shifted.item() == pytest.approx(0.25 + 0.5**2)
    # the same luma: no difference in grey
    red = torch.tensor([0.299, 0, 0]).reshape(1, 3, 1, 1)
    green = torch.tensor([0, 0.299**2 / 0.587, 0]).reshape(1, 3, 1, 1)
    assert losses.identity(red, green).item() == pytest.approx(0, abs=1e-7)


def test_identity_trains_the_image_and_not_the_network():
    torch.manual_seed(0)
    network = IdentityEncoder(2, in_channels=1, width=0.25)
    freeze(network)
    output = torch.rand(2, 1, 16, 16, requires_grad=True)
    losses.identity(output, torch.rand(2, 1, 16, 16), network).backward()
    assert output.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())


def test_adversarial_sides_pull_apart():
    real, fake = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
    assert losses.adversarial(fake).item() == pytest.approx((1 + 0.25) / 2)
    assert losses.discriminator(real, fake).item() == pytest.approx(0.5 * (0.125 + 0.125))
    assert losses.discriminator(torch.ones(3), torch.zeros(3)) == 0
    assert losses.adversarial(torch.ones(3)) == 0


def test_cycle_is_mean_square():
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(losses.cycle(a, b), F.mse_loss(a, b))


def test_total_weighs_what_is_there():
    terms = {
        "classification": torch.tensor(1.0),
        "adversarial": torch.tensor(10.0),
        "cycle": torch.tensor(2.0),
    }
    assert losses.total(terms).item() == pytest.approx(1 + 3 + 1)
    assert losses.total(terms, LossWeights(adversarial=0.0)).item() == pytest.approx(2)
    assert losses.total({"identity": torch.tensor(4.0)}).item() == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.total({}), "terms: at least one of classification, identity"),
        (lambda: losses.total({"style": torch.tensor(1.0)}), "terms: known are classification, .* got style"),
        (
            lambda: losses.identity(torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4)),
            r"target: .* \[2, 3, 4, 4\] .* \[1, 3, 4, 4\]",
        ),
        (lambda: losses.cycle(torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4)), r"image: .* \[2, 1, 4, 4\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
