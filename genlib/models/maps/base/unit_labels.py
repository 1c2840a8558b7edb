"""What each unit of a map won while it learnt: how many samples, and of which classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.distributed import mean_over_ranks, world_size
from genlib.types import Step

_POWER = 4  # the votes of step s count (s / now)**4 as much as today's: the last fifth of a run prevails, by when units have their places


class UnitLabels(nn.Module):
    """Counts of (units, classes), or of (units, 1) without classes; equal on all ranks after every step, and kept in checkpoints."""

    counts: Tensor
    fresh: Tensor

    def __init__(self, units: int, classes: int) -> None:
        super().__init__()
        self.labelled = classes > 0
        self.register_buffer("counts", torch.zeros(units, max(1, classes)))
        self.register_buffer("fresh", torch.zeros(units, max(1, classes)), persistent=False)

    def add(self, winner: Tensor, weight: Tensor, label: Tensor | None) -> None:
        """Notes this rank's samples (B,); those whose label is no class count for nothing."""
        classes = self.counts.shape[1]
        if label is None or not self.labelled:
            label = torch.zeros_like(winner)
        known = (label >= 0) & (label < classes)
        self.fresh.view(-1).index_add_(0, winner * classes + label.clamp(0, classes - 1), weight * known)

    def settle(self, step: Step) -> None:
        """Takes in what all ranks noted in a step, and fades what was there."""
        self.counts.mul_((step.index / (step.index + 1)) ** _POWER).add_(mean_over_ranks(self.fresh), alpha=world_size())
        self.fresh.zero_()

    def replace(self, winner: Tensor, label: Tensor) -> None:
        """Forgets all votes but these of samples (B,)."""
        self.counts.zero_()
        self.fresh.zero_()
        self.add(winner, torch.ones_like(winner, dtype=torch.float32), label)
        self.settle(Step(0, 1))

    def classes(self, prototypes: Tensor) -> Tensor:
        """Shares of the classes among each unit's votes, (units, classes); a unit without votes is like the nearest that has some."""
        if not self.labelled:
            raise ValueError("the map has seen no labels, so it cannot classify; train it on labelled samples, such as digits")
        has_some = self.counts.sum(1) > 0
        voted, others = has_some.nonzero()[:, 0], (~has_some).nonzero()[:, 0]
        if not len(voted):
            raise ValueError("the map has not won a sample yet, so it cannot classify; train it")
        like = torch.arange(len(prototypes), device=voted.device)
        like[others] = voted[torch.cdist(prototypes[others], prototypes[voted]).argmin(1)]
        return F.normalize(self.counts[like], p=1, dim=1)
