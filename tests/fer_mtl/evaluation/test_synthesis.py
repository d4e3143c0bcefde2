from __future__ import annotations

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.synthesis import (
    NO_TARGET,
    find_targets,
    gallery_sources,
    interpolate,
    spread,
    synthesise,
)
from fer_mtl.models.fersnet import FERSNet


@pytest.fixture
def model() -> FERSNet:
    return FERSNet(image_size=32, width=0.125)


def test_targets_are_of_the_same_person(faces: FaceSet) -> None:
    some = faces.subset([0, 1, 2, 7])  # three expressions of one person, one of the next
    table = find_targets(some, [1, 3])
    assert table[0].tolist() == [0, 1, 2, *[NO_TARGET] * 4]
    assert table[1].tolist() == [3, *[NO_TARGET] * 6]


def test_a_gallery_shows_different_people_with_different_expressions(faces: FaceSet) -> None:
    chosen = gallery_sources(faces, 4)
    assert len({faces.subjects[i] for i in chosen}) == len({int(faces.labels[i]) for i in chosen}) == 4


def test_the_way_leads_to_another_expression_in_every_row(model: FERSNet, faces: FaceSet) -> None:
    found = interpolate(model, faces, range(14), steps=2)
    assert not (found.start == found.end).any()


@pytest.mark.parametrize("training", [True, False])
def test_drawing_leaves_the_network_as_it_was(training: bool, model: FERSNet) -> None:
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    synthesise(model, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_way_between_two_expressions_ends_at_both(model: FERSNet, faces: FaceSet) -> None:
    found = interpolate(model, faces, gallery_sources(faces, 3), steps=5)
    assert found.made.shape == (3, 5, 3, 32, 32)
    middle = torch.zeros(3, 7)
    middle[torch.arange(3), found.start] = middle[torch.arange(3), found.end] = 0.5
    for k, expression in ((0, found.start), (2, middle), (4, found.end)):
        # As many at once as there: how a batch is rounded depends on its size.
        drawn = synthesise(model, *(each.repeat_interleave(5, 0) for each in (found.source, expression)))
        torch.testing.assert_close(found.made[:, k], drawn[k::5])


def test_a_network_without_synthesis_is_refused(faces: FaceSet) -> None:
    model = FERSNet(image_size=32, width=0.125, sharing="none", synthesis=False)
    with pytest.raises(ValueError, match="must have a synthesis branch"):
        synthesise(model, torch.rand(1, 3, 32, 32), torch.tensor([0]))
    assert spread(3, 5) == [0, 1, 2] and spread(10, 5) == [0, 2, 4, 6, 8]
