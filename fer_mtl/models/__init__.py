"""FERSNet, its comparators for feature sharing, the discriminator and the identity networks."""

from fer_mtl.models.discriminator import Discriminator
from fer_mtl.models.fersnet import Features, FERSNet
from fer_mtl.models.identity import FeatureNetwork, IdentityEncoder, LightCNN9
from fer_mtl.models.presets import PRESETS
from fer_mtl.models.sharing import SHARING
from fer_mtl.models.statistics import frozen_statistics

__all__ = [
    "PRESETS",
    "SHARING",
    "Discriminator",
    "FERSNet",
    "FeatureNetwork",
    "Features",
    "IdentityEncoder",
    "LightCNN9",
    "frozen_statistics",
]
