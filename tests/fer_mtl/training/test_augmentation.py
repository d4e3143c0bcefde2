from __future__ import annotations

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.training.augmentation import NAMES, make_augmentation


@pytest.mark.parametrize("name", NAMES)
def test_every_level_gives_seeded_views(name: str, faces: FaceSet) -> None:
    augment = make_augmentation(name, 32)
    views = [augment(faces.images[:4], generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert views[0].shape == (4, 3, 32, 32)
    assert torch.equal(*views)
    assert torch.equal(views[0], center(faces.images[:4], 32)) == (name == "none")
    again = augment.again(views[0], generator=torch.Generator().manual_seed(1))
    assert torch.equal(views[0], again) == (name in ("none", "paper"))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of"):
        make_augmentation("wild", 32)
