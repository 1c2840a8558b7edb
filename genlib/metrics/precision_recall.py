"""Precision and recall of a generator (Kynkaanniemi et al. 2019, arXiv:1904.06991).

A set's manifold is the union of balls around its features, each reaching to the k-th nearest other. Precision is the share of
generated pictures on the real manifold (how good they are), recall that of real ones on the generated manifold (how many kinds).
"""

from __future__ import annotations

import torch
from torch import Tensor


def precision_recall(real: Tensor, generated: Tensor, *, k: int = 3, chunk: int = 1024) -> tuple[float, float]:
    """Both in [0, 1]. real (N, D), generated (M, D); `chunk` rows at a time bound the memory. ValueError where a set has no k + 1 pictures."""
    if min(len(real), len(generated)) <= k:
        raise ValueError(
            f"precision and recall with k = {k} need more than {k} pictures on each side, there are {len(real)} real and "
            f"{len(generated)} generated; make or read more"
        )
    center = real.mean(0)  # distances of nearby points keep their digits
    real, generated = real - center, generated - center
    return _covered(generated, real, k, chunk), _covered(real, generated, k, chunk)


def _covered(queries: Tensor, manifold: Tensor, k: int, chunk: int) -> float:
    """Share of the queries in any ball of the manifold."""
    inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    for part in manifold.split(chunk):
        radius = torch.cdist(part, manifold).kthvalue(k + 1, dim=1).values  # the nearest is itself
        for low in range(0, len(queries), chunk):
            inside[low : low + chunk] |= (torch.cdist(queries[low : low + chunk], part) <= radius).any(1)
    return inside.double().mean().item()
