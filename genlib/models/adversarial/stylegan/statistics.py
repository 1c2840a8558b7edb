"""Means over a step's samples that training moves after the step: the same whatever the number of processes and micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.distributed import mean_over_ranks


class StepMeans:
    """Sums of rows that count, by name, since the last `taken`. They live for a step, so no checkpoint holds them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, counts: Tensor) -> None:
        """Rows (B, ...), and which of them count, (B,) bool."""
        flat = values.detach().double().flatten(1) if values.dim() > 1 else values.detach().double()[:, None]
        weight = counts.double()[:, None]
        total = torch.cat([(flat * weight).sum(0), weight.sum(0)])
        self.sums[name] = self.sums[name] + total if name in self.sums else total

    def taken(self, name: str) -> tuple[Tensor, Tensor] | None:
        """The mean of the global batch's rows, flat, and a bool whether it is one: finite, of some rows. None where no rank added any.

        All ranks call it for the same names.
        """
        total = self.sums.pop(name, None)
        if total is None:
            return None
        total = mean_over_ranks(total)
        mean = (total[:-1] / total[-1].clamp(min=1e-12)).float()
        return mean, mean.isfinite().all() & (total[-1] > 0)


def moved(old: Tensor, found: tuple[Tensor, Tensor] | None, decay: float) -> Tensor:
    """The running mean after a step's mean: `decay` of the old one; where the step has none, the old one."""
    if found is None:
        return old
    mean, known = found
    return torch.where(known, mean.view(old.shape).lerp(old, decay), old)
