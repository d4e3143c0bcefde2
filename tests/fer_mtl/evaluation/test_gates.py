from __future__ import annotations

import pytest
import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.gates import DIRECTIONS, accepted, gate_statistics, gates_by_level
from fer_mtl.models.fersnet import FERSNet


def make_model(**options: object) -> FERSNet:
    return FERSNet(**{"image_size": 32, "width": 0.125, **options})


def test_the_figures_are_those_of_the_gates(faces: FaceSet) -> None:
    model = make_model(levels=(1, 3)).train()
    found = gate_statistics(model, faces)
    assert model.training
    assert [(line["level"], line["gate"]) for line in found] == [
        (level, gate) for level in (1, 3) for _ in DIRECTIONS for gate in ("r", "z")
    ]
    with torch.no_grad():
        gates = model.eval()(center(faces.images, 32), return_gates=True)["gates"]
    z = gates[1].y_from_x.z
    line = found[-1]
    assert line["direction"] == "synthesis from recognition"
    assert line["mean"] == pytest.approx(float(z.mean()), abs=1e-5)
    assert line["deviation"] == pytest.approx(float(z.std(unbiased=False)), abs=1e-4)
    assert line["open"] == pytest.approx(float((z > 0.5).float().mean()), abs=1e-5)
    fear = faces.labels == faces.classes.index("fear")
    assert line["per_expression"]["fear"] == pytest.approx(float(z[fear].mean()), abs=1e-5)


def test_z_means_accept_under_both_conventions(faces: FaceSet) -> None:
    some = faces.subset(range(14))
    accept = make_model()
    keep = make_model(convention="keep")
    state = accept.state_dict()
    keep.load_state_dict({k: -v if k.endswith("W_z.weight") else v for k, v in state.items()})
    for a, b in zip(gate_statistics(accept, some), gate_statistics(keep, some), strict=True):
        assert a["mean"] == pytest.approx(b["mean"], abs=1e-5)
    assert float(accepted(torch.tensor(0.25), "keep")) == 0.75


def test_few_faces_stand_for_many_and_other_sharings_have_no_gates(faces: FaceSet) -> None:
    assert len(gate_statistics(make_model(), faces, limit=8)[0]["per_expression"]) > 2
    assert gate_statistics(make_model(sharing="nddr"), faces) == []
    assert gate_statistics(make_model(sharing="none", synthesis=False), faces) == []


def test_gates_are_found_by_their_level(faces: FaceSet) -> None:
    """Each level has half the pixels a side of the one before."""
    found = gates_by_level(make_model(levels=(1, 3)), center(faces.images[:2], 32))
    sides = {level: gates.x_from_y.z.shape[-1] for level, gates in found.items()}
    assert list(sides) == [1, 3] and sides[1] == 4 * sides[3]
    assert gates_by_level(make_model(sharing="nddr"), center(faces.images[:2], 32)) == {}
