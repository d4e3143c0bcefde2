"""Saving a network to a folder and loading it back: config.json, model.safetensors and a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

FORMAT_VERSION = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LIMITS = """## Limits

For research. A predicted expression says how a face looks, not what a person feels. Accuracy differs
between groups of people and falls on images unlike those it was trained on. Synthetic faces of a real person
need that person's consent.
"""
NAMED_KEYS = 5  # how many keys an error message names before it only counts


class Pretrained:
    """Adds ``save_pretrained`` and ``from_pretrained`` to an ``nn.Module`` whose ``config`` holds the
    arguments of its constructor, as JSON can write them."""

    config: dict[str, Any]
    #: What the saver wanted kept beside the network (names of the expressions, data, accuracy); {} if new.
    metadata: Mapping[str, Any] = {}

    def save_pretrained(
        self, folder: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Write the network to ``folder``, which is made if need be.

        Every file is first written beside its place and then moved there, the configuration last, so that an
        interrupted call leaves no broken file.

        Args:
            folder: receives config.json, model.safetensors and README.md (a model card).
            metadata: JSON values to keep with it, found again as ``metadata`` after loading, e.g.
                ``{"expressions": ["anger", "happy"]}``; by default those it was loaded with.

        Raises:
            TypeError: ``metadata`` holds something that JSON cannot write.
        """
        metadata = dict(self.metadata if metadata is None else metadata)
        description = {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "config": self.config,
            "metadata": metadata,
        }
        try:
            text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        except TypeError as error:
            raise TypeError(f"metadata: only values that JSON can write are allowed, {error}") from error
        # safetensors stores plain rows: a channels_last weight has to be laid out anew
        state = {key: value.detach().cpu().contiguous() for key, value in _module(self).state_dict().items()}
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        # safetensors' own file is nobody else's to read, and a full disk no OSError there
        _replace(place / WEIGHTS, save(state, metadata={"format": "pt"}))
        _replace(place / CARD, _card(self, metadata).encode())
        _replace(place / CONFIG, text.encode())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """The network saved in ``folder``, on the CPU and in evaluation mode.

        Raises:
            FileNotFoundError: config.json or model.safetensors is missing.
            ValueError: the folder holds another class, a newer format, a broken file, or weights that do not
                fit (the keys are named).
        """
        place = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (place / name).is_file():
                raise FileNotFoundError(f"{place / name} is missing: not a folder written by save_pretrained")
        description = _read_description(place / CONFIG, cls.__name__)
        try:
            model = cls(**description["config"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place / CONFIG}: config does not fit {cls.__name__}, {error}") from error
        try:
            state = load_file(place / WEIGHTS)
        except SafetensorError as error:
            raise ValueError(f"{place / WEIGHTS} is not a readable safetensors file: {error}") from error
        load_weights(_module(model), state, str(place / WEIGHTS))
        model.metadata = description.get("metadata", {})
        _module(model).eval()
        return model


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``; ValueError names ``source`` and the keys that are missing, unknown or
    of another shape, and leaves ``module`` as it was."""
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} (has {list(state[key].shape)}, needs {list(value.shape)})"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    found = "; ".join(f"{kind}: {_name_some(keys)}" for kind, keys in problems.items() if keys)
    if found:
        raise ValueError(f"{source} does not fit {type(module).__name__}: {found}")
    module.load_state_dict(dict(state))


def _name_some(keys: list[str]) -> str:
    rest = len(keys) - NAMED_KEYS
    return ", ".join(keys[:NAMED_KEYS]) + (f" and {rest} more" if rest > 0 else "")


def _module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} must be an nn.Module to be saved or loaded")
    return model


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_description(path: Path, class_name: str) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version, saved_class, config = (description[key] for key in ("format_version", "class", "config"))
        version = int(version)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a configuration written by save_pretrained: {error!r}") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this fer_mtl reads up to {FORMAT_VERSION}: upgrade fer_mtl"
        )
    if saved_class != class_name:
        raise ValueError(f"{path} holds a {saved_class}: load it with {saved_class}.from_pretrained")
    if not isinstance(config, dict):
        raise ValueError(f"{path}: config must be an object, got {type(config).__name__}")
    return description


def _card(model: Pretrained, metadata: Mapping[str, Any]) -> str:
    """The model card: what it is, how to load it, and what was recorded about it."""
    name = type(model).__name__
    parameters = sum(parameter.numel() for parameter in _module(model).parameters())
    summary = (type(model).__doc__ or name).strip().splitlines()[0]

    def table(values: Mapping[str, Any]) -> str:
        rows = "".join(
            f"| {key} | `{json.dumps(value, ensure_ascii=False)}` |\n" for key, value in values.items()
        )
        return f"| | |\n|---|---|\n{rows}"

    sections = [
        f"# {name}\n\n{summary}\n\n{parameters:,} parameters.\n",
        f'## Use\n\n```python\nfrom fer_mtl import {name}\n\nmodel = {name}.from_pretrained("FOLDER")\n```\n',
        f"## Configuration\n\n{table(model.config)}",
    ]
    if metadata:
        sections.append(f"## Recorded by whoever saved it\n\n{table(metadata)}")
    sections.append(LIMITS)
    return "\n".join(sections)
