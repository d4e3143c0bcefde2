"""What the gates of selective sharing let through, in numbers: per level, direction and expression."""

from __future__ import annotations

from typing import Any

import torch

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.predict import batches, device_of
from fer_mtl.models.fersnet import FERSNet

DIRECTIONS = {"x_from_y": "recognition from synthesis", "y_from_x": "synthesis from recognition"}
CHUNK = 64


def accepted(z: torch.Tensor, convention: str) -> torch.Tensor:
    """An update gate in its "accept" sense (1 takes the candidate made of the other task's features)."""
    return z if convention == "accept" else 1 - z


@torch.no_grad()
def gates_by_level(model: FERSNet, images: torch.Tensor) -> dict[int, Any]:
    """The gates that open for faces float ``[n, C, S, S]``, a ``ShareGates`` per sharing level; empty for a
    model without gates."""
    model.eval()
    gates = model(images.to(device_of(model)), return_gates=True)["gates"]
    return dict(zip(model.shared_levels, gates, strict=True)) if gates else {}


@torch.no_grad()
def gate_statistics(model: FERSNet, faces: FaceSet, limit: int = 256) -> list[dict[str, Any]]:
    """For every sharing level, direction and gate (r, z): mean, deviation, the share above one half, and the
    mean over the faces of each expression. z is in its "accept" sense. At most ``limit`` faces are looked at.

    An empty list for a model without gates.
    """
    if not model.shared_levels or model.config["sharing"] != "convflu":
        return []
    # Drawn at random, seeded: every so many-th would see one expression alone where sets are ordered.
    drawn = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))[:limit]
    faces = faces.subset(drawn.sort().values)
    device, training = device_of(model), model.training
    names = [(level, key, gate) for level in model.shared_levels for key in DIRECTIONS for gate in ("r", "z")]
    # Per face the mean over channels and pixels, the mean square and the share of open gates.
    moments: dict[tuple[int, str, str], list[torch.Tensor]] = {name: [] for name in names}
    model.eval()
    try:
        for images, _ in batches(faces, model.config["image_size"], CHUNK):
            found = model(images.to(device), return_gates=True)["gates"]
            for level, pair in zip(model.shared_levels, found, strict=True):
                for key in DIRECTIONS:
                    unit = getattr(pair, key)
                    z = accepted(unit.z, model.config["convention"])
                    for gate, value in (("r", unit.r), ("z", z)):
                        flat = value.float().flatten(1)
                        parts = [flat.mean(1), flat.square().mean(1), (flat > 0.5).float().mean(1)]
                        moments[level, key, gate].append(torch.stack(parts, 1).cpu())
    finally:
        model.train(training)
    return [
        {"level": level, "direction": DIRECTIONS[key], "gate": gate}
        | _summary(torch.cat(moments[level, key, gate]), faces)
        for level, key, gate in names
    ]


def _summary(moments: torch.Tensor, faces: FaceSet) -> dict[str, Any]:
    mean, square, open_share = moments.double().mean(0).tolist()
    return {
        "mean": mean,
        "deviation": max(0.0, square - mean**2) ** 0.5,
        "open": open_share,
        "per_expression": {
            name: float(moments[faces.labels == e, 0].mean())
            for e, name in enumerate(faces.classes)
            if bool((faces.labels == e).any())
        },
    }
