"""How good synthesised faces are: read by a judge, compared with true images, in identity, and as a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cosine_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fer_mtl.data import FaceSet
from fer_mtl.evaluation.distances import frechet, kernel, mean_cosine
from fer_mtl.evaluation.predict import device_of
from fer_mtl.evaluation.synthesis import Gallery, make_gallery, spread
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import FeatureNetwork

NOT_INDEPENDENT = "the trained recogniser itself, not independent"
CHUNK = 64
SOURCES = 128


@dataclass(frozen=True)
class Judge:
    """Who reads the expressions of synthesised faces, and what to call it in a report."""

    name: str
    model: FERSNet

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For float ``[N, C, S, S]``: probabilities ``[N, E]`` and features ``[N, d]``, on the CPU."""
        self.model.eval()
        device, probability, features = device_of(self.model), [], []
        for chunk in images.split(CHUNK):
            recognition = self.model.encode(chunk.to(device)).recognition
            probability.append(self.model.classifier(recognition).float().softmax(1).cpu())
            features.append(recognition.float().mean((2, 3)).cpu())
        return torch.cat(probability), torch.cat(features)

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """The expression it sees in each of ``images`` float ``[N, C, S, S]``: int64 ``[N]``, on the CPU."""
        return self.look(images)[0].argmax(1)


@torch.no_grad()
def identity_features(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    """Features of ``images`` float ``[N, C, S, S]``, averaged over positions: ``[N, d]`` on the CPU."""
    device = next(network.parameters()).device if isinstance(network, torch.nn.Module) else images.device
    parts = [network.features(chunk.to(device)).float().mean((2, 3)).cpu() for chunk in images.split(CHUNK)]
    return torch.cat(parts)


def distances(images: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """L1, PSNR (dB) and SSIM of float ``[N, C, S, S]`` in [0, 1] against their targets: each the mean of
    every picture's own. SSIM is that of Wang et al. (2004), a Gaussian window of deviation 1.5, at every
    position, pictures mirrored at their border; who leaves the border out, as scikit-image does, gets another
    figure from small pictures."""
    ssim = structural_similarity_index_measure(images, targets, data_range=1.0)
    return {
        "l1": float((images - targets).abs().mean()),
        "psnr": float(peak_signal_noise_ratio(images, targets, data_range=1.0, dim=(1, 2, 3))),
        "ssim": float(ssim),  # type: ignore[arg-type]
    }


def measure_synthesis(
    model: FERSNet,
    faces: FaceSet,
    *,
    limit: int = SOURCES,
    judge: Judge | None = None,
    identity: FeatureNetwork | None = None,
) -> dict[str, Any]:
    """Synthesise every OTHER expression for up to ``limit`` images of ``faces`` and measure the result.

    The expression accuracy is what ``judge`` (the model itself by default, and then it is said so) reads in
    the synthesised faces; the same judge's accuracy on the real sources stands beside it. ``by_source`` has
    it for the sources of each expression alone (such as neutral), see :func:`reading`. Distances to the
    true target are over the pairs that have one, beside those of the unchanged source: a synthesis worth
    having is nearer to the target than the source is. With ``identity``, see :func:`identity_figures`.
    """
    judge = judge or Judge(NOT_INDEPENDENT, model)
    gallery = make_gallery(model, faces, spread(len(faces), limit))
    other = torch.arange(len(faces.classes)) != gallery.label[:, None]
    wanted = torch.arange(len(faces.classes)).expand_as(other)[other]
    probability, made_features = judge.look(gallery.made[other])
    seen, real_features = judge.look(gallery.source)
    hits = torch.zeros_like(other)
    hits[other] = probability.argmax(1) == wanted
    pairs = gallery.known & other
    copied = gallery.source[:, None].expand_as(gallery.made)
    measured = bool(pairs.any())
    true_hits = torch.zeros_like(other)
    if measured:
        true_hits[pairs] = judge.read(gallery.target[pairs]) == pairs.nonzero()[:, 1]
    own = [gallery.label == e for e in range(len(faces.classes))]
    return {
        "images": len(wanted),
        "judge": judge.name,
        "judge_on_real_faces": _share(seen.argmax(1) == gallery.label),
        **reading(hits, true_hits, other, pairs, faces.classes),
        "by_source": {
            name: {
                "sources": int(mine.sum()),
                **reading(hits[mine], true_hits[mine], other[mine], pairs[mine], faces.classes),
            }
            for name, mine in zip(faces.classes, own, strict=True)
        },
        "to_target": distances(gallery.made[pairs], gallery.target[pairs]) if measured else None,
        "unchanged_source": distances(copied[pairs], gallery.target[pairs]) if measured else None,
        "identity": identity_figures(gallery, other, identity) if identity is not None else None,
        "sets": set_figures(made_features, real_features, judge.name),
    }


def reading(
    hits: torch.Tensor,
    true_hits: torch.Tensor,
    other: torch.Tensor,
    pairs: torch.Tensor,
    names: Sequence[str],
) -> dict[str, Any]:
    """What a judge read right, by source and wanted expression, all bool ``[n, E]``: ``hits`` of the
    synthesised faces, of which there are ``other``, ``true_hits`` of the true images, of which there are
    ``pairs``. ``pairs_read`` and ``targets_read`` are the shares over the same pairs: synthesised, and true.
    """
    return {
        "expression_accuracy": _share(hits[other]),
        "per_expression": {name: _share(hits[other[:, e], e]) for e, name in enumerate(names)},
        "pairs": int(pairs.sum()),
        "pairs_read": _share(hits[pairs]),
        "targets_read": _share(true_hits[pairs]),
    }


def identity_figures(gallery: Gallery, other: torch.Tensor, network: FeatureNetwork) -> dict[str, Any]:
    """Cosine of the identity features of a synthesised face and its source, with the two values that frame
    it: of two real images of one person with different expressions, and of images of different people.
    ``feature_distance`` is 1 - cosine between synthesised face and true target."""
    source = identity_features(network, gallery.source)
    made = identity_features(network, gallery.made[other])
    rows = torch.arange(len(source))[:, None].expand_as(other)
    pairs = gallery.known & other
    target = identity_features(network, gallery.target[pairs]) if bool(pairs.any()) else source[:0]
    strangers = torch.tensor([[a != b for b in gallery.subjects] for a in gallery.subjects])
    table = cosine_similarity(source[:, None], source[None], dim=-1)
    drawn = torch.zeros(*other.shape, made.shape[1])
    drawn[other] = made
    near = mean_cosine(drawn[pairs], target)
    return {
        "network": type(network).__name__,
        "cosine": mean_cosine(made, source[rows[other]]),
        "same_person": mean_cosine(target, source[rows[pairs]]),
        "other_people": float(table[strangers].mean()) if bool(strangers.any()) else None,
        "feature_distance": None if near is None else 1 - near,
    }


def set_figures(made: torch.Tensor, real: torch.Tensor, judge: str) -> dict[str, Any] | None:
    """Frechet and kernel distance between synthesised and real faces; None where there are too few. Beside
    them, as the floor, those between two halves of the real faces."""
    if min(len(made), len(real)) < 4:
        return None
    return {
        "features": f"FERSNet recognition features ({made.shape[1]}) of {judge}",
        "frechet": frechet(made, real),
        "kernel": kernel(made, real),
        "frechet_real_halves": frechet(real[::2], real[1::2]),
        "kernel_real_halves": kernel(real[::2], real[1::2]),
    }


def _share(hits: torch.Tensor) -> float | None:
    """The share of true entries; None of nothing."""
    return float(hits.float().mean()) if hits.numel() else None
