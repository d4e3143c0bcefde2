"""FaceSet: the one in-memory form that every data set is loaded into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fer_mtl.words import counted

SPLITS = ("train", "validation", "test")
"""The parts of an official split."""

_LISTED = 20  # skipped files that `describe` names; `FaceSet.skipped` has them all

# Faces are kept with a margin for random crops: the paper crops 96 x 96 out of 110 x 110.
_MARGIN = 110 / 96


def stored_side(image_size: int) -> int:
    """Side in pixels at which images are kept for crops of `image_size` (110 for 96)."""
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise TypeError(f"image_size must be an int, got {type(image_size).__name__}")
    if image_size < 8:
        raise ValueError(f"image_size must be at least 8, got {image_size}")
    return round(image_size * _MARGIN)


def check_channels(channels: int) -> int:
    """`channels` itself when it is 1 (grey) or 3 (RGB), else ValueError."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    return channels


@dataclass
class FaceSet:
    """Labelled faces, decoded and resized once and kept in memory.

    name: data set name, e.g. "ck48"
    classes: expression names; a label is an index into them
    images: uint8 [n, channels, S, S] with S the stored side (`stored_side(image_size)`)
    labels: int64 [n]
    subjects: subject id per image, length n
    sources: file name or synthetic id per image, length n
    skipped: what was left out while loading, one line per file with the reason
    notes: remarks on what was done to the images, e.g. that they were resized
    split: the official part of each image, one of `SPLITS`, length n; None for a set that has none
    known_subjects: False where the set does not tell who is who: every image is then a subject of its own

    Raises TypeError for wrong dtypes, ValueError for shapes, lengths or labels that do not agree.
    """

    name: str
    classes: tuple[str, ...]
    images: torch.Tensor
    labels: torch.Tensor
    subjects: list[str]
    sources: list[str]
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    split: list[str] | None = None
    known_subjects: bool = True

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {self.images.dtype}")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {self.labels.dtype}")
        if self.images.dim() != 4 or self.images.shape[2] != self.images.shape[3]:
            raise ValueError(f"images must be [n, channels, S, S], got {list(self.images.shape)}")
        check_channels(self.images.shape[1])
        lengths = {
            "images": len(self.images),
            "labels": self.labels.numel(),
            "subjects": len(self.subjects),
            "sources": len(self.sources),
        }
        if self.split is not None:
            lengths["split"] = len(self.split)
        if len(set(lengths.values())) != 1 or self.labels.dim() != 1:
            raise ValueError(f"{', '.join(lengths)} must have one length, got {lengths}")
        unknown = sorted(set(self.split or ()) - set(SPLITS))
        if unknown:
            raise ValueError(f"split must be made of {SPLITS}, got {unknown[0]!r}")
        self.classes = tuple(self.classes)
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct, got {self.classes}")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"labels must lie in 0..{len(self.classes) - 1}, "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Side in pixels of the crops these images are stored for (96 for a stored side of 110)."""
        return round(self.images.shape[3] / _MARGIN)

    def subset(self, indices: Sequence[int] | torch.Tensor) -> FaceSet:
        """The images at `indices` (ints, an int64 or a bool tensor), in that order; the rest is kept."""
        index = torch.as_tensor(indices)
        if index.dtype == torch.bool:
            if index.shape != self.labels.shape:
                raise ValueError(f"a mask must have length {len(self)}, got {list(index.shape)}")
            index = index.nonzero().flatten()
        index = index.to(torch.int64)
        chosen = index.tolist()
        return FaceSet(
            name=self.name,
            classes=self.classes,
            images=self.images[index],
            labels=self.labels[index],
            subjects=[self.subjects[i] for i in chosen],
            sources=[self.sources[i] for i in chosen],
            skipped=list(self.skipped),
            notes=list(self.notes),
            split=None if self.split is None else [self.split[i] for i in chosen],
            known_subjects=self.known_subjects,
        )

    def class_counts(self) -> dict[str, int]:
        """Images per expression, in the order of `classes`, zeros included."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    def describe(self) -> str:
        """A few lines of plain text: size, subjects, images per class, what was skipped."""
        side = self.images.shape[3]
        colour = "grey" if self.channels == 1 else "colour"
        counts = ", ".join(f"{name} {count}" for name, count in self.class_counts().items())
        who = counted(len(set(self.subjects)), "subject") if self.known_subjects else "unknown subjects"
        lines = [
            f"{self.name}: {counted(len(self), f'{colour} image')} of {who}, "
            f"stored at {side} x {side} for crops of {self.image_size}",
            f"classes: {counts}",
        ]
        if self.split is not None:
            parts = ", ".join(f"{part} {self.split.count(part)}" for part in SPLITS if part in self.split)
            lines.append(f"official split: {parts} (fold rule official)")
        if not self.known_subjects:
            lines.append("every image counts as a subject of its own: folds may part pictures of one person")
        lines += self.notes
        if self.skipped:
            more = f"; and {len(self.skipped) - _LISTED} more" if len(self.skipped) > _LISTED else ""
            lines.append(f"skipped {len(self.skipped)}: " + "; ".join(self.skipped[:_LISTED]) + more)
        return "\n".join(lines)
