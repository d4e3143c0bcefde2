"""Networks by name: the arguments of :class:`~fer_mtl.models.fersnet.FERSNet` that a preset fixes.

The discriminator takes the same ``width``; number of expressions and channels come from the data. What a
preset says about training is in :mod:`fer_mtl.training.presets`.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The published network (Zhao et al., ICPR 2020, arXiv 2007.04514).
    "paper": {"width": 1.0, "image_size": 96},
    # Two CPU cores: a quarter of the channels and two thirds of the side, 1/35 of the work. So small a
    # decoder does not learn to draw a whole face in so few steps: it draws what changes over the source.
    "small": {"width": 0.25, "image_size": 64, "blend": True},
}
