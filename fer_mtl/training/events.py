"""A run's epochs as TensorBoard events, for those who watch it there; stats.jsonl holds the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation.gates import accepted, gate_statistics
from fer_mtl.evaluation.predict import device_of
from fer_mtl.evaluation.synthesis import gallery_sources
from fer_mtl.models.fersnet import FERSNet

FACES = 4
WATCHED = 64  # faces whose gates are averaged


class Events:
    """Writes one step an epoch into ``folder``, which is made by the first of them: before that a
    run is not sure of its folder. ``ModuleNotFoundError`` where tensorboard is missing."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # needs an optional package

        self._open = partial(SummaryWriter, str(folder))

    @cached_property
    def writer(self) -> Any:
        return self._open()

    def write(self, line: Mapping[str, Any], model: FERSNet, faces: FaceSet) -> None:
        """The epoch's line of stats.jsonl; the gates' means, maps and the synthesis of a few of ``faces``."""
        epoch = line["epoch"]
        for name, value in line["losses"].items():
            self.writer.add_scalar(f"loss/{name}", value, epoch)
        self.writer.add_scalar("accuracy/training", line["train_accuracy"], epoch)
        if "validation" in line:
            self.writer.add_scalar("accuracy/validation", line["validation"]["accuracy"], epoch)
        self.writer.add_scalar("learning_rate", line["learning_rate"], epoch)
        for found in gate_statistics(model, faces, WATCHED):
            where = f"{found['gate']}/level {found['level']}, {found['direction']}"
            self.writer.add_scalar(f"gates {where}", found["mean"], epoch)
            for expression, mean in found["per_expression"].items():
                self.writer.add_scalar(f"gates {where}/{expression}", mean, epoch)
        self._pictures(model, faces, epoch)
        self.writer.flush()

    @torch.no_grad()
    def _pictures(self, model: FERSNet, faces: FaceSet, epoch: int) -> None:
        if not model.config["synthesis"]:
            return
        chosen = torch.tensor(gallery_sources(faces, FACES))
        images = center(faces.images[chosen], model.config["image_size"]).to(device_of(model))
        training = model.training
        model.eval()
        wanted = (faces.labels[chosen].to(images.device) + 1) % len(faces.classes)
        outputs = model(images, wanted, return_gates=model.config["sharing"] == "convflu")
        model.train(training)
        self.writer.add_images("faces/source", images, epoch)
        self.writer.add_images("faces/next expression", outputs["image"].clamp(0, 1), epoch)
        for level, pair in zip(model.shared_levels, outputs["gates"] or (), strict=False):
            for key in ("x_from_y", "y_from_x"):
                z = accepted(getattr(pair, key).z, model.config["convention"])
                self.writer.add_images(f"gates/z {key}, level {level}", z.mean(1, keepdim=True), epoch)
