"""What the page shows, without the page: pictures and videos read and faces redrawn by one model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch.nn.functional import one_hot

from fer_mtl.data import load
from fer_mtl.data.augmentation import center
from fer_mtl.data.images import open_image
from fer_mtl.evaluation import face_plots
from fer_mtl.evaluation.gates import gates_by_level
from fer_mtl.evaluation.pictures import captioned, to_image
from fer_mtl.evaluation.plots import to_png
from fer_mtl.evaluation.reading import Frame, Reader, Reading, Table, Track, captions, marked
from fer_mtl.evaluation.synthesis import synthesise
from fer_mtl.faces import Detector, Face
from fer_mtl.faces.whole import WholePicture
from fer_mtl.training.checkpoints import TrainedModel
from fer_mtl.training.config import TrainConfig, from_dict
from fer_mtl.training.methods import method_of
from fer_mtl.training.starting import data_name

STRANGERS = 20200714
"""The seed of drawn people for show, which nobody trains with."""
ROOM = 40  # pixels
SHOWN_SIDE = 256
"""Pictures are shown at least so large, in pixels; networks draw faces smaller than screens do."""
LONGEST_SIDE = 2048
"""Nothing is shown larger, in pixels: a strip one pixel high would fill the memory, a photograph of a
telephone take seconds to be written and sent."""


@dataclass(frozen=True)
class Seen:
    """A picture with what was read in its faces, the largest first."""

    image: Image.Image
    readings: list[Reading]


class Studio:
    """Reads and redraws with one trained model.

    Args:
        trained: the model and its expressions.
        detector: finds faces in pictures that are not cropped to one.
    """

    def __init__(self, trained: TrainedModel, detector: Detector) -> None:
        self.trained, self.model, self.classes = trained, trained.model, trained.classes
        self.readers = {
            cropped: Reader(trained.model, found_by, trained.views)
            for cropped, found_by in ((False, detector), (True, WholePicture()))
        }

    @property
    def draws(self) -> bool:
        """Whether the model has a synthesis branch."""
        return bool(self.model.config["synthesis"])

    @property
    def drawn_faces(self) -> bool:
        """Whether it has learnt from drawn faces, and knows nothing of photographs."""
        return self.data == "procedural"

    @property
    def data(self) -> str | None:
        """The name of what it has learnt from; None where nothing tells."""
        return self.model.metadata.get("data") if self.config is None else data_name(self.config.data)

    @property
    def config(self) -> TrainConfig | None:
        """Of the run; None for a model folder, which tells nothing of it."""
        found = self.trained.origin.get("config")
        return None if found is None else from_dict(TrainConfig, found)

    def strangers(self) -> list[tuple[Image.Image, str]]:
        """For a model that has learnt from drawn faces: drawn people whom it has not seen, each with another
        of its expressions."""
        if not self.drawn_faces:
            raise ValueError("only a model that has learnt from drawn faces has drawn strangers")
        config = self.config
        spec, options = ("procedural", {}) if config is None else (config.data, dict(config.data_options))
        options |= {"classes": self.classes, "num_subjects": len(self.classes), "images_per_expression": 1}
        options |= {"seed": STRANGERS}
        side, channels = self.model.config["image_size"], self.model.config["in_channels"]
        faces = load(spec, image_size=side, channels=channels, **options)
        chosen = [person * len(self.classes) + person for person in range(len(self.classes))]
        return [
            (stored_picture(faces.images[index]), name)
            for index, name in zip(chosen, self.classes, strict=True)
        ]

    def description(self) -> str:
        """The model in one line."""
        config, side = self.config, self.model.config["image_size"]
        colour = "grey" if self.model.config["in_channels"] == 1 else "colour"
        name = self.model.metadata.get("method", "FERSNet") if config is None else method_of(config)
        name += "" if self.data is None else f", trained on {self.data}"
        return f"{name}; {', '.join(self.classes)}; {colour} faces of {side} x {side} pixels"

    def look(self, path: Path, cropped: bool) -> Seen:
        """Read a picture; ``cropped`` takes it for one face. Raises ImageError for a file that is none."""
        image = open_image(path)
        return Seen(image, self.readers[cropped].read(image))

    def marked(self, seen: Seen) -> Image.Image:
        """The picture with its faces marked; a small one is enlarged, lest the captions hide the faces, a
        large one made smaller."""
        times, faces = scale(seen.image), []
        for reading in seen.readings:
            left, top, width, height = reading.face.box
            faces.append(Face((times * left, times * top, times * width, times * height)))
        said = captions(seen.readings, self.classes)
        return captioned(scaled(seen.image), zip(faces, said, strict=True))

    def probabilities(self, reading: Reading) -> dict[str, float]:
        return dict(zip(self.classes, reading.probability, strict=True))

    def redrawn(self, reading: Reading) -> Image.Image:
        """The face as the model takes it, and beside it with every expression."""
        source, codes = self._source(reading), torch.eye(len(self.classes))
        made = synthesise(self.model, source.expand(len(codes), -1, -1, -1), codes)
        return plotted(face_plots.face_grid(torch.cat([source, made])[None], ("as read", *self.classes)))

    def blended(self, reading: Reading, expression: str, strength: float) -> Image.Image:
        """The face on its way from the expression that was read (strength 0) to another one (1)."""
        own, other = (
            one_hot(torch.tensor([self.classes.index(name)]), len(self.classes)).float()
            for name in (reading.ranked(self.classes)[0][0], expression)
        )
        code = (1 - strength) * own + strength * other
        return shown(synthesise(self.model, self._source(reading), code)[0])

    def gates(self, reading: Reading) -> Image.Image | None:
        """Where each task lets the other one in; None for a model without gates."""
        source = self._source(reading)
        found = gates_by_level(self.model, source)
        if not found:
            return None
        return plotted(face_plots.gate_maps(source, found, self.model.config["convention"]))

    def start(self) -> VideoSeen:
        """A video of which nothing has been seen yet."""
        return VideoSeen(Table(self.classes), Track(self.classes), {})

    def frames(self, path: Path, step: int, cropped: bool) -> Iterator[Frame]:
        """Every ``step``-th frame of a video, read. Raises ImageError for a file that is none."""
        return self.readers[cropped].frames(path, step)

    def _source(self, reading: Reading) -> torch.Tensor:
        return center(reading.stored[None], self.model.config["image_size"])


@dataclass
class VideoSeen:
    """A video up to some frame. surest: of every expression seen in the largest face the frame that shows it
    most surely."""

    table: Table
    track: Track
    surest: dict[str, Frame]

    def add(self, name: str, frame: Frame) -> None:
        self.table.add(Path(name), frame.readings, frame.number, frame.second)
        self.track.add(frame)
        if frame.readings:
            expression, probability = frame.readings[0].ranked(self.table.classes)[0]
            before = self.surest.get(expression)
            if before is None or max(before.readings[0].probability) < probability:
                self.surest[expression] = frame

    def gallery(self) -> list[tuple[Image.Image, str]]:
        """The surest frames, marked, in the order of the video, each with its time."""
        frames = sorted(self.surest.values(), key=lambda frame: frame.number)
        return [
            (
                marked(frame.image, frame.readings, self.table.classes),
                f"frame {frame.number}" if frame.second is None else f"{frame.second:.1f} s",
            )
            for frame in frames
        ]


def stored_picture(face: torch.Tensor) -> Image.Image:
    """A stored face uint8 ``[C, S, S]`` as a picture."""
    return Image.open(io.BytesIO(to_image(face.float() / 255)))


def shown(face: torch.Tensor) -> Image.Image:
    """A face float ``[C, S, S]`` in [0, 1] as a picture of a size for screens."""
    return scaled(Image.open(io.BytesIO(to_image(face))))


def scale(image: Image.Image) -> float:
    """By how much a picture is made larger for screens (a whole number), or smaller."""
    if max(image.size) > LONGEST_SIDE:
        return LONGEST_SIDE / max(image.size)
    return max(1, min(-(-SHOWN_SIDE // min(image.size)), LONGEST_SIDE // max(image.size)))


def scaled(image: Image.Image) -> Image.Image:
    times = scale(image)
    width, height = (max(1, round(times * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def plotted(figure: Figure) -> Image.Image:
    """A plot as a picture, with room at its top for the buttons that the page lays over it."""
    return ImageOps.expand(Image.open(io.BytesIO(to_png(figure))).convert("RGB"), (0, ROOM, 0, 0), "white")
