"""Frechet distance between two sets of features (Dowson & Landau 1982; as FID, Heusel et al. 2017, arXiv:1706.08500).

Each set is summed up by its mean and covariance in float64, batch by batch, in any order and over any ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlib import distributed


class Moments:
    """Count, mean and scatter of rows (features of pictures), added to as they come.

    The scatter is kept about the running mean (Chan, Golub & LeVeque 1979), so that features far from zero lose no digits.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(size, size, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Takes in rows (B, D)."""
        if len(rows):
            rows = rows.to(self.mean)
            mean = rows.mean(0)
            rows = rows - mean
            self._take(len(rows), mean)
            self.scatter.addmm_(rows.T, rows)

    def merge(self, other: Moments) -> None:
        """Takes in all that another has seen."""
        if other.count:
            self._take(other.count, other.mean)
            self.scatter += other.scatter

    def _take(self, count: int, mean: Tensor) -> None:
        """Count and mean after `count` more rows of that mean, and what lies between the two means."""
        total, gap = self.count + count, mean - self.mean
        self.scatter.addr_(gap, gap, alpha=self.count * count / total)
        self.mean += gap * (count / total)
        self.count = total

    def over_ranks(self) -> Moments:
        """The moments of the rows of all ranks, on every rank."""
        whole, world = Moments(len(self.mean), self.mean.device), distributed.world_size()
        sums = distributed.mean_over_ranks(torch.cat([self.mean.new_tensor([self.count]), self.count * self.mean])) * world
        whole.count = round(sums[0].item())
        whole.mean = sums[1:] / max(whole.count, 1)
        gap = self.mean - whole.mean
        whole.scatter = distributed.mean_over_ranks(self.scatter + self.count * gap.outer(gap)) * world
        return whole

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased. ValueError with fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two pictures, there are {self.count}; make or read more")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), at least 0."""
    a_covariance, b_covariance = a.covariance.cpu(), b.covariance.cpu()
    spread = a_covariance.trace() + b_covariance.trace() - 2 * trace_of_root(a_covariance, b_covariance)
    return max(0.0, ((a.mean - b.mean).square().sum().cpu() + spread).item())


def trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr((a b)^(1/2)) of two covariances (D, D) float64.

    a b has the eigenvalues of F^T b F where a = F F^T, which is symmetric: no complex numbers, and a fraction of the time.
    """
    factor = _factor(a)
    return torch.linalg.eigvalsh(factor.T @ b @ factor).clamp(min=0).sqrt().sum()


def _factor(covariance: Tensor) -> Tensor:
    """F (D, r) with F F^T the covariance: Cholesky's, or where that is singular its eigenvectors, without those of nothing."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()
