from __future__ import annotations

import pytest
import torch

from fer_mtl.training.epochs import draw_order


@pytest.mark.parametrize(("synthetic", "mix"), [(100, 0.5), (5, 0.5), (7, 0.2)])
def test_synthetic_faces_make_up_their_share(synthetic: int, mix: float) -> None:
    order = draw_order(40, 40 + synthetic, mix, torch.Generator().manual_seed(0))
    real, drawn = order[order < 40], order[order >= 40]
    assert sorted(real.tolist()) == list(range(40))
    assert len(drawn) / len(order) == pytest.approx(mix, abs=0.01)
    # None is drawn twice before all were drawn once.
    counts = torch.bincount(drawn - 40, minlength=synthetic)
    assert int(counts.max()) - int(counts.min()) <= 1


def test_the_same_generator_draws_the_same_faces_in_the_same_order() -> None:
    first, again, other = (draw_order(40, 47, 0.5, torch.Generator().manual_seed(k)) for k in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_real_faces_alone_are_a_permutation() -> None:
    random = torch.Generator().manual_seed(0)
    assert sorted(draw_order(9, 9, 0.5, random).tolist()) == list(range(9))
