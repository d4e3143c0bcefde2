"""Networks whose frozen features say who is in a picture, for the identity term of the loss.

:class:`IdentityEncoder` is trained in the run, on the training subjects. :class:`LightCNN9` takes the user's
own copy of published weights; none are shipped.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from fer_mtl.models.blocks import batch_norm_relu, scaled
from fer_mtl.models.checks import check_at_least, check_channels, check_images, check_positive
from fer_mtl.models.pretrained import Pretrained, load_weights

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


@runtime_checkable
class FeatureNetwork(Protocol):
    """Anything with frozen features to compare two faces by."""

    def features(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [0, 1] -> features with N first; differentiable in the images."""


def grey(images: Tensor) -> Tensor:
    """Luma of images: [N, 3, H, W] -> [N, 1, H, W]; grey images are returned as they are.

    Raises:
        ValueError: ``images`` are not [N, 1 or 3, H, W].
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: [N, 1 or 3, H, W] is needed, got {list(images.shape)}")
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue


def freeze(module: nn.Module) -> None:
    """Put ``module`` in evaluation mode and stop gradients to its parameters; its inputs still get theirs."""
    module.eval().requires_grad_(False)


class IdentityEncoder(Pretrained, nn.Module):
    """A small convolutional network that learns to tell the training subjects apart, then serves frozen.

    Four times conv3x3 (no bias), batch norm, ReLU, max-pool; a global average and a linear layer name the
    subject.

    Args:
        num_subjects: subjects to tell apart, at least 2.
        in_channels: 1 (grey) or 3 (colour).
        width: scales the channel counts 32, 64, 128, 128, which stay multiples of 8.

    Raises:
        ValueError: an argument out of its range; the message names it.
    """

    def __init__(self, num_subjects: int, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        check_at_least("num_subjects", num_subjects, 2)
        check_channels("in_channels", in_channels)
        check_positive("width", width)
        self.config: dict[str, Any] = {
            "num_subjects": num_subjects,
            "in_channels": in_channels,
            "width": width,
        }
        self.in_channels = in_channels
        channels = [in_channels, *(scaled(count, width) for count in (32, 64, 128, 128))]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    batch_norm_relu(after, pool=2),
                )
                for before, after in pairwise(channels)
            )
        )
        self.linear = nn.Linear(channels[-1], num_subjects)

    def features(self, images: Tensor) -> Tensor:
        """Floating-point [N, in_channels, H, W] in [0, 1], H and W multiples of 16 -> [N, C, H/16, W/16]."""
        check_images("images", images, self.in_channels, 16)
        return self.stages(images)

    def forward(self, images: Tensor) -> Tensor:
        """As :meth:`features`, but the logits of the subjects, [N, num_subjects]."""
        return self.linear(self.features(images).mean((2, 3)))


class MaxFeatureMap(nn.Module):
    """A convolution with twice the filters, of which the larger of each two answers is kept."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(in_channels, 2 * out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H, W]."""
        first, second = self.filter(x).chunk(2, dim=1)
        return torch.maximum(first, second)


def _group(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv_a=MaxFeatureMap(in_channels, in_channels, 1),
            conv=MaxFeatureMap(in_channels, out_channels, 3),
        )
    )


class LightCNN9(nn.Module):
    """LightCNN-9 up to its fourth pooling, whose output is the feature of the paper's identity term.

    Wu et al., "A Light CNN for Deep Face Representation with Noisy Labels", IEEE TIFS 2018. Faces are turned
    grey and resized to 128 x 128. Weights come from the user: see :meth:`from_file`.
    """

    SIZE = 128

    def __init__(self) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(2, ceil_mode=True)

        self.trunk = nn.Sequential(
            MaxFeatureMap(1, 48, 5), pool(),
            _group(48, 96), pool(),
            _group(96, 192), pool(),
            _group(192, 128), _group(128, 128), pool(),
        )  # fmt: skip

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The network with the weights of a checkpoint, frozen.

        Args:
            path: a PyTorch file with the state dict of the published LightCNN-9 (``features.*``, ``fc1.*``,
                ``fc2.*``), alone or under ``"state_dict"``, with or without the ``module.`` of data-parallel
                training. Only tensors and plain containers are read (``weights_only``). The fully connected
                layers are not used.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint that can be read safely, or keys that are missing, unknown or of
                another shape (they are named).
        """
        source = Path(path)
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no LightCNN-9 weights there")
        try:
            loaded = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that is not its own
            raise ValueError(f"{source} cannot be read as a file of tensors: {error}") from error
        if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
            loaded = loaded["state_dict"]
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ValueError(f"{source} holds no state dict of tensors")
        plain = {key.removeprefix("module."): value for key, value in loaded.items()}
        model = cls()
        load_weights(
            model,
            {
                f"trunk.{key.removeprefix('features.')}" if key.startswith("features.") else key: value
                for key, value in plain.items()
                if not key.startswith(("fc1.", "fc2."))
            },
            str(source),
        )
        freeze(model)
        return model

    def features(self, images: Tensor) -> Tensor:
        """Floating-point [N, 1 or 3, H, W] in [0, 1] -> [N, 128, 8, 8]."""
        return self.trunk(_resize(grey(images), self.SIZE))

    forward = features


def _resize(images: Tensor, size: int) -> Tensor:
    """Bilinear resizing to size x size as two matrix products: unlike torch's own, its backward is
    deterministic on a GPU, so that a deterministic run can use it."""
    height, width = images.shape[2:]
    rows = _bilinear_matrix(height, size, images)
    columns = _bilinear_matrix(width, size, images)
    return rows @ images @ columns.T


def _bilinear_matrix(size: int, new_size: int, like: Tensor) -> Tensor:
    """[new_size, size]: row i holds the weights of the old pixels in new pixel i (pixel centres at half)."""
    if size == new_size:
        return torch.eye(size, device=like.device, dtype=like.dtype)
    centres = (torch.arange(new_size, device=like.device) + 0.5) * (size / new_size) - 0.5
    distance = centres.clamp(0, size - 1)[:, None] - torch.arange(size, device=like.device)
    return (1 - distance.abs()).clamp(min=0).to(like.dtype)
