"""Sums over a step's samples that training moves by after the step: the same whatever the number of processes and micro-batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlib.distributed import mean_over_ranks, world_size


class StepSum(nn.Module):
    """Of so many numbers a row, over the rows since the last `taken`. It lives for a step, so no checkpoint holds it."""

    total: Tensor
    """(numbers + 1,) float64: the sum of this rank's rows, and how many they are."""

    def __init__(self, numbers: int = 1) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(numbers + 1, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def add(self, values: Tensor, counts: Tensor) -> None:
        """Rows (B, numbers), or (B,) of one number, of which those count that are finite and marked in counts (B,) bool."""
        rows = values.detach().double().view(len(values), -1)
        counts = counts & rows.isfinite().all(1)
        self.total += torch.cat([torch.where(counts[:, None], rows, 0.0).sum(0), counts.sum()[None]])


@torch.no_grad()
def taken(*sums: StepSum) -> list[tuple[Tensor, Tensor]]:
    """The sum (numbers,) and the number of rows () of each, float32, over all ranks, which call it together; each begins anew."""
    totals = (mean_over_ranks(torch.cat([one.total for one in sums])) * world_size()).float()
    for one in sums:
        one.total.zero_()
    return [(part[:-1], part[-1]) for part in totals.split([len(one.total) for one in sums])]


def moved(old: Tensor, total: Tensor, count: Tensor, decay: float) -> Tensor:
    """A running mean after a step with such a sum of so many rows: `decay` of the old one; where the step has none, the old one."""
    mean = (total / count.clamp(min=1)).view(old.shape)
    return torch.where(count > 0, mean.lerp(old, decay), old)
