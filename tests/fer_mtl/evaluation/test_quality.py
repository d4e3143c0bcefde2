from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.distances import frechet, kernel
from fer_mtl.evaluation.quality import (
    NOT_INDEPENDENT,
    Judge,
    distances,
    identity_features,
    measure_synthesis,
    set_figures,
)
from fer_mtl.evaluation.synthesis import spread
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import IdentityEncoder, freeze


class Copier(FERSNet):
    """Gives back what it was shown, whatever was asked for."""

    def forward(
        self, image: torch.Tensor, target_expression: torch.Tensor | None = None, **options: bool
    ) -> dict:
        return super().forward(image, **options) | {"image": image}


@pytest.fixture(scope="module")
def identity() -> IdentityEncoder:
    encoder = IdentityEncoder(8, width=0.25)
    freeze(encoder)
    return encoder


def test_a_copy_keeps_the_person_and_shows_the_source(faces: FaceSet, identity: IdentityEncoder) -> None:
    found = measure_synthesis(Copier(image_size=32, width=0.125), faces, limit=12, identity=identity)
    assert found["images"] == 12 * 6 == found["pairs"]
    assert found["judge"] == NOT_INDEPENDENT
    assert found["to_target"] == pytest.approx(found["unchanged_source"])
    who = found["identity"]
    assert who["network"] == "IdentityEncoder"
    assert who["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert who["feature_distance"] == pytest.approx(1 - who["same_person"], abs=1e-5)
    source = faces.subset(spread(len(faces), 12))
    features = identity_features(identity, center(source.images, 32))
    others = [
        float(torch.cosine_similarity(features[i], features[j], 0))
        for i in range(12)
        for j in range(12)
        if source.subjects[i] != source.subjects[j]
    ]
    assert who["other_people"] == pytest.approx(sum(others) / len(others), abs=1e-5)
    assert "recognition features (64)" in found["sets"]["features"]
    assert found["sets"]["kernel"] < found["sets"]["kernel_real_halves"] + 0.05


def test_the_judge_reads_in_place_of_the_model(faces: FaceSet) -> None:
    model = FERSNet(image_size=32, width=0.125)
    other = FERSNet(image_size=32, width=0.125, sharing="none", synthesis=False)
    with torch.no_grad():
        other.classifier.linear.bias.copy_(torch.tensor([0.0, 0, 0, 100, 0, 0, 0]))
    found = measure_synthesis(model, faces, limit=7, judge=Judge("fear everywhere", other))
    assert found["judge"] == "fear everywhere" and found["identity"] is None
    assert found["per_expression"]["fear"] == 1.0 and found["per_expression"]["anger"] == 0.0
    assert found["judge_on_real_faces"] == pytest.approx(1 / 7)


def test_what_is_read_is_also_told_by_the_sources_expression(faces: FaceSet) -> None:
    """Sources of three expressions; the judge takes every face for fear. Of the pairs those count whose true
    image there is, and of these one in six shows fear (for a source of fear none)."""
    judge = FERSNet(image_size=32, width=0.125, sharing="none", synthesis=False)
    with torch.no_grad():
        judge.classifier.linear.bias.copy_(torch.tensor([0.0, 0, 0, 100, 0, 0, 0]))
    kept = [i for i, label in enumerate(faces.labels.tolist()) if faces.classes[label] != "fear" or i < 7]
    some = faces.subset(kept)
    found = measure_synthesis(
        FERSNet(image_size=32, width=0.125), some, limit=999, judge=Judge("fear everywhere", judge)
    )
    sources = found["by_source"]
    assert {name: entry["sources"] for name, entry in sources.items()} == some.class_counts()
    assert sum(entry["pairs"] for entry in sources.values()) == found["pairs"] < found["images"]
    assert sources["fear"]["expression_accuracy"] == sources["fear"]["targets_read"] == 0
    assert sources["fear"]["per_expression"]["fear"] is None
    assert sources["anger"]["expression_accuracy"] == pytest.approx(1 / 6)
    shown = {some.subjects[i] for i in range(len(some)) if some.classes[int(some.labels[i])] == "fear"}
    anger = [some.subjects[i] for i in range(len(some)) if some.classes[int(some.labels[i])] == "anger"]
    true_pairs = sum(5 + (subject in shown) for subject in anger)
    assert sources["anger"]["pairs"] == true_pairs
    expected = sum(subject in shown for subject in anger) / true_pairs
    assert sources["anger"]["targets_read"] == pytest.approx(expected)
    assert sources["anger"]["pairs_read"] == pytest.approx(expected)


@dataclass(frozen=True)
class Knowing(Judge):
    """Reads every true picture right, whatever its model would say."""

    faces: FaceSet

    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known = center(self.faces.images, images.shape[3]).flatten(1)
        found = torch.cdist(images.flatten(1), known).argmin(1)
        return torch.nn.functional.one_hot(self.faces.labels[found], 7).float(), images.mean((2, 3))


def test_what_is_read_in_synthesised_and_in_true_pictures_is_told_apart(faces: FaceSet) -> None:
    """Of copies of the source nothing is read right, of the true pictures all."""
    model = Copier(image_size=32, width=0.125)
    found = measure_synthesis(model, faces, limit=14, judge=Knowing("it knows", model, faces))
    assert found["judge_on_real_faces"] == 1
    for told in (found, *(entry for entry in found["by_source"].values() if entry["sources"])):
        assert told["expression_accuracy"] == told["pairs_read"] == 0 and told["targets_read"] == 1


def test_a_judges_look_is_its_models_answer(faces: FaceSet) -> None:
    model = FERSNet(image_size=32, width=0.125).eval()
    images = torch.rand(70, 3, 32, 32)
    probability, features = Judge("it", model).look(images)
    with torch.no_grad():
        torch.testing.assert_close(probability, model(images)["logits"].softmax(1), rtol=1e-4, atol=1e-5)
    assert features.shape == (70, 64)
    assert torch.equal(Judge("it", model).read(images), probability.argmax(1))


def test_ssim_counts_every_position_of_a_picture() -> None:
    """A Gaussian window of deviation 1.5 and 11 pixels, pictures mirrored beyond their border. Torchmetrics
    before 1.4.2 left the outer five pixels out, which is half of a picture of 32."""
    one, other = (torch.rand(2, 1, 32, 32, dtype=torch.float64) for _ in range(2))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2

    def around(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect")
        return (sliding_window_view(padded, (11, 11), (2, 3)) * window).sum((-2, -1))

    x, y = one.numpy(), other.numpy()
    mx, my = around(x), around(y)
    vx, vy, covariance = around(x * x) - mx**2, around(y * y) - my**2, around(x * y) - mx * my
    found = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert distances(one, other)["ssim"] == pytest.approx(found.mean(), rel=1e-9)


def test_psnr_is_the_mean_of_each_faces_own() -> None:
    """As L1 and SSIM beside it; of one mean error over all faces it would be that of the worst ones."""
    error = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1).expand(2, 1, 32, 32)
    assert distances(error, torch.zeros_like(error))["psnr"] == pytest.approx((20 + 40) / 2)


def test_distances_and_features_have_their_shape(identity: IdentityEncoder) -> None:
    images = torch.rand(3, 3, 32, 32)
    assert identity_features(identity, images).shape == (3, 32)
    same = distances(images, images)
    assert (same["l1"], same["ssim"]) == pytest.approx((0.0, 1.0))
    assert set_figures(torch.rand(3, 2), torch.rand(9, 2), "j") is None


def test_the_floor_of_the_set_distances_is_between_halves_without_a_common_face() -> None:
    first, second = torch.rand(2, 2, 3)
    real = torch.stack([first, second], 1).flatten(0, 1)
    found = set_figures(torch.rand(4, 3), real, "j")
    assert found is not None
    assert found["frechet_real_halves"] == pytest.approx(frechet(first, second))
    assert found["kernel_real_halves"] == pytest.approx(kernel(first, second))
