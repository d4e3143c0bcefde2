"""The learning rate of an epoch, from the configuration alone, so that a resumed run needs no state of it."""

from __future__ import annotations

import math

from fer_mtl.training.config import TrainConfig


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The rate after ``epoch`` epochs; between two epochs a fraction counts (used by "cosine" and warm-up).

    "steps" multiplies by ``gamma`` at the milestones, "cosine" falls to zero along half a cosine; either
    rises linearly over the warm-up first, from 0.5 / (w + 0.5) of the rate for w epochs of it.
    """
    optimiser = config.optimiser
    rising = optimiser.warmup * config.epochs
    if epoch < rising:
        return optimiser.learning_rate * (epoch + 0.5) / (rising + 0.5)
    if optimiser.schedule == "cosine":
        progress = (epoch - rising) / (config.epochs - rising)
        return optimiser.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    passed = sum(epoch >= max(1, round(fraction * config.epochs)) for fraction in optimiser.milestones)
    return optimiser.learning_rate * optimiser.gamma**passed
