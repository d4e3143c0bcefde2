"""The table of data sets by name, and `load`, which reads "NAME", "NAME:FOLDER" or "NAME:key=value,...".

A data set is one file that decorates its loader with `@register(...)`; `fer_mtl.data` imports them all.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fer_mtl.data.faceset import FaceSet, check_channels, stored_side

Loader = Callable[..., FaceSet]
Finder = Callable[..., Any]  # of (root, **options), returns fer_mtl.data.files.Found


@dataclass(frozen=True)
class DataSetInfo:
    """One row of `fer-mtl datasets`: what it is, the layout it expects, how to obtain it, and its loader.

    labels, subjects, frames: which expressions it has and how they are coded, how a subject is recognised,
        and which frames of a sequence are taken
    finder: for a set made of files, what lists its pictures without reading them
    people: whose faces it shows; sets of the same people have it in common and write their subjects alike,
        so that nobody is tested who was trained on under another name of the set
    """

    name: str
    summary: str
    layout: str
    obtain: str
    loader: Loader
    needs_folder: bool
    labels: str = ""
    subjects: str = ""
    frames: str = ""
    finder: Finder | None = None
    people: str = ""

    def options(self) -> dict[str, Any]:
        """The options of this data set alone, with their defaults."""
        handled = {"folder", "root", "image_size", "channels", "skip_bad_images"}
        parameters = inspect.signature(self.finder or self.loader).parameters
        return {name: p.default for name, p in parameters.items() if name not in handled}


DATASETS: dict[str, DataSetInfo] = {}


def register(
    name: str, *, summary: str, layout: str, obtain: str, needs_folder: bool = True, **more: Any
) -> Callable[[Loader], Loader]:
    """Enter a loader into `DATASETS`; `more` are the other fields of `DataSetInfo`;
    its people are its own unless told otherwise.

    The loader is called as loader(folder, image_size=, channels=, skip_bad_images=, **options) when it
    needs a folder and without `folder` and `skip_bad_images` when it does not. A set made of files is best
    registered by `fer_mtl.data.files.register_files`, which makes the loader out of a list of its pictures.
    """

    def enter(loader: Loader) -> Loader:
        fields = {"people": name, **more}
        DATASETS[name] = DataSetInfo(name, summary, layout, obtain, loader, needs_folder, **fields)
        return loader

    return enter


def load(
    spec: str, *, image_size: int, channels: int = 3, skip_bad_images: bool = False, **options: Any
) -> FaceSet:
    """Load a data set into memory.

    spec: "NAME" or "NAME:FOLDER", e.g. "procedural", "ck48:data/CK+48", "folder:photos". A set that
        needs no folder takes its options there too: "procedural:num_subjects=40,seed=3".
    image_size: side in pixels of the crops to be made; images are kept with a margin around it
    channels: 1 (grey) or 3 (RGB)
    skip_bad_images: leave out and list what cannot be read instead of raising
    options: keyword arguments of that data set's loader

    Raises ValueError for an unknown name, a missing folder part or a wrong option, FileNotFoundError
    for a folder that does not exist, and what the loader raises.
    """
    if not isinstance(spec, str):
        raise TypeError(
            f"spec must be a str such as 'procedural' or 'folder:photos', got {type(spec).__name__}"
        )
    stored_side(image_size)
    check_channels(channels)
    info, rest = lookup(spec)
    if info.needs_folder:
        require_folder(info, rest)
        check_options(info, options)
        return info.loader(
            rest, image_size=image_size, channels=channels, skip_bad_images=skip_bad_images, **options
        )
    options = {**_parse_options(spec, rest), **options}
    check_options(info, options)
    return info.loader(image_size=image_size, channels=channels, **options)


def lookup(spec: str) -> tuple[DataSetInfo, str]:
    """The data set that "NAME" or "NAME:REST" names, and REST. ValueError for an unknown name."""
    name, _, rest = spec.partition(":")
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise ValueError(
            f"unknown data set {name!r} in {spec!r}; known: {known} (a folder of photos is 'folder:PATH')"
        )
    return DATASETS[name], rest


def require_folder(info: DataSetInfo, folder: str) -> None:
    """ValueError, saying what is expected, where the folder after the colon is missing."""
    if not folder:
        raise ValueError(
            f"data set {info.name!r} needs a folder: write '{info.name}:FOLDER', laid out as {info.layout}"
        )


def _parse_options(spec: str, text: str) -> dict[str, Any]:
    """ "num_subjects=40,seed=3" -> {"num_subjects": 40, "seed": 3}; classes are joined by "+"."""
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise ValueError(f"expected key=value,... after the colon of {spec!r}, got {part!r}")
        try:
            options[key] = ast.literal_eval(value.title() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            options[key] = tuple(value.split("+")) if key == "classes" else value
    return options


def check_options(info: DataSetInfo, options: dict[str, Any]) -> None:
    """ValueError for an option that the data set does not have."""
    allowed = list(info.options())
    for name in options:
        if name not in allowed:
            raise ValueError(
                f"data set {info.name!r} has no option {name!r}; it has: {', '.join(allowed) or 'none'}"
            )
