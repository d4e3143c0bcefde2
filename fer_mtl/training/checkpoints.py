"""Checkpoints: single files that appear whole or not at all and load with ``weights_only=True``.

``last.pt`` holds everything a run needs to go on (networks, optimisers, random generators, position);
``best.pt`` holds the generator of the selected epoch and what is needed to use it. Both describe the model
and its classes, so that either is enough to evaluate or synthesise.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fer_mtl.files import replacing
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import FeatureNetwork, IdentityEncoder, LightCNN9, freeze

FORMAT = "fer_mtl/1"


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write ``content`` (tensors, numbers, strings, lists, dictionaries) to ``path`` in one atomic step."""
    with replacing(Path(path)) as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:
            # torch, which then cannot close its archive, hides that the disk is full.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises ``FileNotFoundError`` when there is none, ``ValueError`` naming the file when it is not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch would have us load it as a program
        raise ValueError(
            f"{path} is not a readable checkpoint: torch has not saved it, or it holds more than tensors "
            "and plain values"
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is cut short or of another origin
        raise ValueError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this library (format {FORMAT!r} expected)")
    return content


@dataclass
class TrainedModel:
    """A model ready for use and where it comes from."""

    model: FERSNet
    classes: tuple[str, ...]
    origin: dict[str, Any] = field(default_factory=dict)
    """Of a checkpoint: ``config``, ``split`` (subjects by role), ``seen`` (see :mod:`fer_mtl.training.seen`;
    older ones lack it) and ``epoch``. A model folder has none, but may tell more in the model's
    ``metadata``."""

    @property
    def views(self) -> str:
        """How its run tested: views as in :func:`fer_mtl.evaluation.predict.predict`."""
        told = self.origin.get("config", self.model.metadata)
        return str(told.get("views", "center"))


def model_content(model: FERSNet, classes: Sequence[str]) -> dict[str, Any]:
    """What every checkpoint says of its model."""
    return {"model": model.state_dict(), "model_config": dict(model.config), "classes": list(classes)}


def finite(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether every number in a module's state is one."""
    return all(bool(torch.isfinite(value).all()) for value in state.values())


def resolve(source: str | Path) -> Path:
    """The checkpoint that ``source`` means: a file, or a run folder's best (else last) checkpoint."""
    source = Path(source)
    if source.is_dir():
        for name in ("best.pt", "last.pt"):
            if (source / name).is_file():
                return source / name
        folds = sorted(path.parent for path in source.glob("seed-*/fold-*/best.pt"))
        hint = f"; it is a cross-validation, name one of its folds, e.g. {folds[0]}" if folds else ""
        raise FileNotFoundError(f"{source} holds no checkpoint (best.pt or last.pt){hint}")
    return source


def load_model(source: str | Path, device: str | torch.device = "cpu") -> TrainedModel:
    """The model of a run folder, a checkpoint file or a ``save_pretrained`` folder, in eval mode.

    ``ValueError`` for the folder of a run that has not finished an epoch; its ``last.pt`` must be named.
    """
    source = Path(source)
    if (source / "model.safetensors").is_file():
        model = FERSNet.from_pretrained(source)
        names = tuple(model.metadata.get("expressions") or map(str, range(model.config["num_expressions"])))
        return TrainedModel(model.to(device).eval(), names)
    content = load(resolve(source))
    if source.is_dir() and content.get("epoch") == 0:
        raise ValueError(
            f"{source} holds no trained model: its run was stopped before an epoch was kept (continue "
            f"with fer-mtl train --resume {source}, or name {resolve(source)} to take it as it is)"
        )
    model = FERSNet(**content["model_config"])
    model.load_state_dict(content["model"])
    told = ("config", "split", "seen", "epoch")
    origin: dict[str, Any] = {key: content[key] for key in told if key in content}
    return TrainedModel(model.to(device).eval(), tuple(content["classes"]), origin)


def load_identity(source: str | Path) -> FeatureNetwork | None:
    """The frozen identity network of a run folder; None where the run had none or kept no ``last.pt``."""
    last = Path(source) / "last.pt"
    if not last.is_file():
        return None
    content = load(last)
    state = content["networks"].get("identity")
    if state is None:
        return None
    encoder: IdentityEncoder | LightCNN9
    if "linear.weight" in state:
        settings = content["config"]
        encoder = IdentityEncoder(
            len(state["linear.weight"]), settings["model"]["in_channels"], settings["identity"]["width"]
        )
    else:
        encoder = LightCNN9()
    encoder.load_state_dict(state)
    freeze(encoder)
    return encoder
