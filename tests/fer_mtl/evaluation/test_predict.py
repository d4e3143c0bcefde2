from __future__ import annotations

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.predict import VIEWS, crops, evaluate_recognition, predict
from fer_mtl.models.fersnet import FERSNet


@pytest.fixture
def model() -> FERSNet:
    return FERSNet(image_size=32, width=0.125, sharing="none", synthesis=False)


def test_the_views_of_a_face(faces: FaceSet) -> None:
    seen = {views: list(crops(faces.images[:2], 32, views)) for views in VIEWS}
    assert {views: len(found) for views, found in seen.items()} == {"center": 1, "mirror": 2, "ten": 10}
    assert torch.equal(seen["ten"][0], center(faces.images[:2], 32))
    assert all(torch.equal(seen["ten"][k + 1], seen["ten"][k].flip(3)) for k in range(0, 10, 2))
    # Side 37: the centre starts at 2, the corner crops at 1 and 4.
    assert torch.equal(seen["ten"][2], faces.images[:2, :, 1:33, 1:33].float() / 255)
    assert torch.equal(seen["ten"][8], faces.images[:2, :, 4:36, 4:36].float() / 255)


def test_more_views_are_the_mean_of_the_log_probabilities(model: FERSNet, faces: FaceSet) -> None:
    model.train()
    found = predict(model, faces.images, batch_size=20, views="mirror")
    assert model.training
    with torch.no_grad():
        views = list(crops(faces.images, 32, "mirror"))
        wanted = torch.stack([model.eval()(view)["logits"].log_softmax(1) for view in views]).mean(0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_confusion_counts_every_face(model: FERSNet, faces: FaceSet) -> None:
    logits, confusion = evaluate_recognition(model, faces)
    assert int(confusion.sum()) == len(faces)
    assert confusion.diagonal().sum() == (logits.argmax(1) == faces.labels).sum()
    assert predict(model, faces.images[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match="views must be one of center, mirror, ten, got 'many'"):
        predict(model, faces.images, views="many")
