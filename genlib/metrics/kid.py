"""Kernel inception distance (Binkowski et al. 2018, arXiv:1801.01401): an unbiased squared maximum mean discrepancy."""

from __future__ import annotations

import torch
from torch import Tensor


def kid(real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over drawn subsets, by torchmetrics, in float64, with the paper's kernel (x . y / D + 1)^3.

    real (N, D), generated (M, D); a subset has at most as many pictures as the smaller set. Negative values are chance: the mean
    over pairs of sets of one distribution is 0. ValueError where a set has fewer than two.
    """
    from torchmetrics.image.kid import poly_mmd  # imports for seconds

    size = min(subset_size, len(real), len(generated))
    if size < 2:
        raise ValueError(
            f"KID needs at least two pictures on each side, there are {len(real)} real and {len(generated)} generated; make or read more"
        )
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(subsets if size < max(len(real), len(generated)) else 1):
        a, b = (rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)].double() for rows in (real, generated))
        found.append(poly_mmd(a, b))
    values = torch.stack(found)
    return values.mean().item(), values.std(unbiased=False).item()
