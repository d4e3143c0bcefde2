"""Picture files -> uint8 tensors of one size, in parallel, whatever their mode."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps

from fer_mtl.data.faceset import check_channels, stored_side
from fer_mtl.data.parallel import parallel_map

log = logging.getLogger(__name__)

_CHUNK = 32  # images per task: decoding a small face takes less time than handing out a task
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


class ImageError(ValueError):
    """A picture that cannot be read; the message names the file and the reason."""


class Picture(Protocol):
    """A picture that is not simply a whole file: part of one, a frame of a video, a row of a table."""

    def open(self) -> Image.Image:
        """The picture, upright, in mode "L" (grey) or "RGB"; raises ImageError."""


@dataclass(frozen=True)
class Cropped:
    """The part of a picture file inside a box, in pixels from the left and the top."""

    path: Path
    left: float
    top: float
    width: float
    height: float

    def open(self) -> Image.Image:
        image = open_image(self.path)
        box = [round(v) for v in (self.left, self.top, self.left + self.width, self.top + self.height)]
        # Boxes of detectors reach a little beyond the picture now and then; what lies outside is cut off.
        inside = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
        if inside[2] - inside[0] < 2 or inside[3] - inside[1] < 2:
            raise ImageError(
                f"{self.path}: the box {box} (left, top, right, bottom) lies outside the picture of "
                f"{image.width} x {image.height}"
            )
        return image.crop(inside)


@dataclass
class Images:
    """What `read_images` returns.

    pixels: uint8 [kept, channels, S, S]
    kept: indices into the given pictures of the images in `pixels`
    skipped: one line per file that was left out: name and reason
    notes: remarks on what was done to the images, e.g. that they were resized
    """

    pixels: torch.Tensor
    kept: list[int]
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def expect_large_photographs() -> None:
    """Pillow suspects photographs of today's telephones of an attack; what is too large it refuses. For
    programs, not for libraries: it holds for the whole process, and for that one alone."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def open_image(path: Path) -> Image.Image:
    """Decode a file upright, in mode "L" (grey) or "RGB".

    EXIF rotation is applied, 16-bit grey is scaled to 8 bits, transparency is laid over white, and palette,
    CMYK and other modes are converted. Raises ImageError, also for 8 bits in a file of more, which would be
    black.
    """
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        with Image.open(path) as file:
            if file.format == "EPS":  # which Pillow has Ghostscript run, whatever the file is called
                raise ImageError(f"{path}: PostScript is a program; store it as a picture")
            file.load()
            image = ImageOps.exif_transpose(file)
    except ImageError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise ImageError(f"{path}: not a readable image ({type(error).__name__}: {error})") from error
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ImageError(f"{path}: grey levels {levels.min()}..{levels.max()} exceed 16 bits")
        if 0 < levels.max() <= 255:
            raise ImageError(
                f"{path}: grey levels {levels.min()}..{levels.max()} of a picture of 16 bits or more would "
                "be black; store 8 bits"
            )
        return Image.fromarray(np.round(levels / 257).astype(np.uint8))
    if image.mode == "F":
        raise ImageError(f"{path}: floating point pixels have no defined range; store 8 or 16 bits")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def fit(image: Image.Image, side: int, channels: int) -> np.ndarray:
    """Centre square of the image, resized to `side`, as uint8 [channels, side, side]."""
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def read_images(
    pictures: Sequence[Path | Picture], *, image_size: int, channels: int = 3, skip_bad_images: bool = False
) -> Images:
    """Read files, or whatever else can be opened, into one tensor with side `stored_side(image_size)`.

    Raises ImageError for the first file that cannot be read, unless skip_bad_images; and ImageError when
    nothing could be read. Says once when images had to be resized or cropped to a square.
    """
    side = stored_side(image_size)
    pixels = torch.empty(len(pictures), check_channels(channels), side, side, dtype=torch.uint8)
    view = pixels.numpy()

    def read(start: int) -> list[tuple[int, int] | ImageError]:
        results: list[tuple[int, int] | ImageError] = []
        for i in range(start, min(start + _CHUNK, len(pictures))):
            try:
                picture = pictures[i]
                image = open_image(picture) if isinstance(picture, Path) else picture.open()
                view[i] = fit(image, side, channels)
                results.append(image.size)
            except ImageError as error:
                results.append(error)
        return results

    chunks = parallel_map(read, range(0, len(pictures), _CHUNK))
    results = [result for chunk in chunks for result in chunk]
    errors = [result for result in results if isinstance(result, ImageError)]
    if errors and not skip_bad_images:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ImageError(f"{errors[0]}{more}; skip_bad_images leaves out and lists such files")
    kept = [i for i, result in enumerate(results) if not isinstance(result, ImageError)]
    if not kept:
        raise ImageError(
            f"no readable image among {len(pictures)} files" + (f"; first: {errors[0]}" if errors else "")
        )
    sizes = [result for result in results if not isinstance(result, ImageError)]
    notes = _resize_note(sizes, side)
    for note in notes:
        log.warning(note)
    if errors:
        pixels = pixels[kept]
    return Images(pixels, kept, [str(error) for error in errors], notes)


def _resize_note(sizes: list[tuple[int, int]], side: int) -> list[str]:
    other = [size for size in sizes if size != (side, side)]
    if not other:
        return []
    width, height = max(set(other), key=other.count)
    oblong = sum(w != h for w, h in other)
    cropped = f"; {oblong} that are not square are cropped to their centre first" if oblong else ""
    most = f"most are {width} x {height}"
    return [f"{len(other)} of {len(sizes)} images resized to {side} x {side} ({most}){cropped}"]
