"""How the two tasks' losses are weighed against each other in one update of the generator.

    fixed        the published weights, as constants
    uncertainty  L = sum_t exp(-s_t) L_t + s_t / 2 with a learnt log-variance s_t for each task
                 (Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses", CVPR 2018)
    pcgrad, mgda, aligned
                 the tasks' gradients are combined so that conflicts between them are resolved, by torchjd, an
                 optional package (Yu et al., "Gradient Surgery", NeurIPS 2020; Desideri, "Multiple-gradient
                 descent", 2012; Senushkin et al., "Independent Component Alignment", CVPR 2023). Its methods
                 that need a solver of quadratic programmes are left out.

Within a task the terms keep their fixed weights (:class:`fer_mtl.training.losses.LossWeights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fer_mtl.training import losses
from fer_mtl.training.losses import LossWeights

TASKS: dict[str, tuple[str, ...]] = {
    "recognition": ("classification", "penalty"),
    "synthesis": ("identity", "adversarial", "cycle", "expression"),
}
# Our names of the gradient methods, and torchjd's.
GRADIENT_METHODS = {"pcgrad": "PCGrad", "mgda": "MGDA", "aligned": "AlignedMTL"}
WEIGHTINGS = ("fixed", "uncertainty", *GRADIENT_METHODS)


def task_losses(terms: Mapping[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The weighted sum of each task's terms; a task none of whose terms is there is left out."""
    found = {task: {name: terms[name] for name in names if name in terms} for task, names in TASKS.items()}
    return {task: losses.total(mine, weights) for task, mine in found.items() if mine}


class Weighting(nn.Module):
    """Fixed weights, and the interface of the others."""

    reads_gradients = False
    """Whether it computes with the gradients' values, which must then be finite."""

    def __init__(self, weights: LossWeights) -> None:
        super().__init__()
        self.weights = weights

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The scalar that is logged and, but for gradient methods, differentiated."""
        return losses.total(terms, self.weights)

    def backward(
        self, terms: Mapping[str, Tensor], total: Tensor, parameters: Sequence[nn.Parameter]
    ) -> None:
        """Fill the gradients of ``parameters``; ``total`` is what :meth:`total` gave for ``terms``."""
        total.backward()


class UncertaintyWeighting(Weighting):
    """One learnt log-variance for each task, trained together with the generator."""

    def __init__(self, weights: LossWeights) -> None:
        super().__init__(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(TASKS)))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        found = task_losses(terms, self.weights)
        variances = dict(zip(TASKS, self.log_variance, strict=True))
        parts = [torch.exp(-variances[task]) * loss + variances[task] / 2 for task, loss in found.items()]
        return torch.stack(parts).sum()


class GradientWeighting(Weighting):
    """One of GRADIENT_METHODS. ``ModuleNotFoundError`` names torchjd where it is missing."""

    reads_gradients = True

    def __init__(self, weights: LossWeights, method: str) -> None:
        super().__init__(weights)
        from torchjd import aggregation  # optional, so imported only where it is asked for

        self.aggregator = getattr(aggregation, GRADIENT_METHODS[method])()

    def backward(
        self, terms: Mapping[str, Tensor], total: Tensor, parameters: Sequence[nn.Parameter]
    ) -> None:
        from torchjd import autojac

        tasks = list(task_losses(terms, self.weights).values())
        if len(tasks) == 1:
            tasks[0].backward()
            return
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        # One task after the other: no operation has to be vectorised over tasks.
        autojac.backward(tasks, inputs=wanted, parallel_chunk_size=1)
        autojac.jac_to_grad(wanted, self.aggregator)


def make_weighting(name: str, weights: LossWeights) -> Weighting:
    """The weighting called ``name``, one of WEIGHTINGS."""
    if name not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {name!r}")
    if name in GRADIENT_METHODS:
        return GradientWeighting(weights, name)
    return UncertaintyWeighting(weights) if name == "uncertainty" else Weighting(weights)
