"""The losses of FERSNet, one small function each, and their weighted sum.

    L_G = L_cls + L_idn + 0.3 L_adv + 0.5 L_cyc                                   (generator, :func:`total`)
    L_D = 1/2 [MSE(D(target, c_t), 1) + MSE(D(out, c_t), 0)]                      (:func:`discriminator`)

Zhao et al., ICPR 2020 (arXiv 2007.04514), with the weights of its public training code of 2021. x is an image
with expression y, c_t the target expression, out = G(x, c_t), and the target a REAL image of the same subject
with the expression c_t. All losses are means, so that they do not depend on batch or image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from fer_mtl.models.identity import FeatureNetwork, grey
from fer_mtl.training.settings import check


@dataclass(frozen=True)
class LossWeights:
    """How much each term of the generator's loss counts; the defaults are the published ones.

    Attributes:
        classification: of the cross-entropy of what is recognised in real images.
        identity: of the distance between a redrawn face and the true picture of the person.
        adversarial: of what the discriminator says of redrawn faces.
        cycle: of the distance between a face and what comes of it when it is redrawn and drawn back.
        features: of the identity network's features inside the identity term; 0 leaves pixels alone.
        expression: of the cross-entropy between the wanted expression and what the running average of the
            network reads in the synthesised face, turned, scaled and lit as the augmentation (strong or
            geometric) does to training images. Ours; the paper has none.
        penalty: of what the way of sharing adds (FERSNet.sharing_penalty; only sluice does). Ours.
    """

    classification: float = 1.0
    identity: float = 1.0
    adversarial: float = 0.3
    cycle: float = 0.5
    features: float = 0.05
    expression: float = 0.0
    penalty: float = 0.01

    def __post_init__(self) -> None:
        for term in fields(self):
            value = getattr(self, term.name)
            check(f"loss.{term.name}", value, "0 or more", value >= 0)


def classification(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """L_cls = CE(p(x), y), the mean cross-entropy.

    Args:
        logits: [N, E].
        labels: int64 [N], or probabilities [N, E].
        class_weights: [E], or None to count all alike.
        label_smoothing: share of a label spread over all classes, in [0, 1].
    """
    return F.cross_entropy(logits, labels, weight=class_weights, label_smoothing=label_smoothing)


def identity(
    output: Tensor, target: Tensor, network: FeatureNetwork | None = None, feature_weight: float = 0.05
) -> Tensor:
    """L_idn = L1(grey(out), grey(target)) + 0.05 MSE(F(out), F(target)), F a frozen identity network.

    Args:
        output, target: [N, 1 or 3, H, W] of one shape.
        network: F; None leaves the second term out.
        feature_weight: of the second term.

    Raises:
        ValueError: ``output`` and ``target`` differ in shape.
    """
    _check_alike("target", target, output)
    loss = F.l1_loss(grey(output), grey(target))
    if network is None or feature_weight == 0:
        return loss
    return loss + feature_weight * F.mse_loss(network.features(output), network.features(target).detach())


def adversarial(scores: Tensor) -> Tensor:
    """L_adv = MSE(D(out, c_t), 1): least squares GAN, the generator's side (Mao et al., ICCV 2017).

    Args:
        scores: the discriminator's for synthetic faces, any shape.
    """
    return F.mse_loss(scores, torch.ones_like(scores))


def discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = 1/2 [MSE(D(target, c_t), 1) + MSE(D(out, c_t), 0)]: least squares GAN, the discriminator's side.

    Args:
        real_scores: for the real targets, any shape.
        fake_scores: for synthetic faces; out must be detached from the generator.
    """
    real = F.mse_loss(real_scores, torch.ones_like(real_scores))
    return 0.5 * (real + F.mse_loss(fake_scores, torch.zeros_like(fake_scores)))


def cycle(reconstruction: Tensor, image: Tensor) -> Tensor:
    """L_cyc = MSE(G(G(x, c_t), c_s), x), c_s the expression of x: back to the source expression.

    Args:
        reconstruction, image: [N, C, H, W] of one shape.

    Raises:
        ValueError: the shapes differ.
    """
    _check_alike("image", image, reconstruction)
    return F.mse_loss(reconstruction, image)


def total(terms: Mapping[str, Tensor], weights: LossWeights | None = None) -> Tensor:
    """The weighted sum L_G of named terms, so that each can be logged and left out.

    Args:
        terms: scalars by name; the names are those of :class:`LossWeights`.
        weights: the published ones by default.

    Raises:
        ValueError: no term at all, or one without a weight.
    """
    weights = LossWeights() if weights is None else weights
    known = [field.name for field in fields(weights)]
    unknown = sorted(terms.keys() - set(known))
    if unknown:
        raise ValueError(f"terms: known are {', '.join(known)}; got {', '.join(unknown)}")
    if not terms:
        raise ValueError(f"terms: at least one of {', '.join(known)} is needed, got none")
    weighted = [getattr(weights, name) * term for name, term in terms.items()]
    return sum(weighted[1:], start=weighted[0])


def _check_alike(argument: str, got: Tensor, like: Tensor) -> None:
    if got.shape != like.shape:  # broadcasting would give a number, and a wrong one
        raise ValueError(f"{argument}: the shape {list(like.shape)} is needed, got {list(got.shape)}")
