"""Round trips through points: the order in which a ring passes them, and the nearest-neighbour trip to compare it with."""

from __future__ import annotations

import torch
from torch import Tensor


def along_ring(x: Tensor, winner: Tensor, prototypes: Tensor) -> Tensor:
    """The order in which a ring of prototypes (K, D) passes samples (B, D), each once, int64 (B,).

    By winner (B,), and where several have one, by how far along the ring they lie beside it.
    """
    direction = prototypes.roll(-1, 0) - prototypes.roll(1, 0)
    along = ((x - prototypes[winner]) * direction[winner]).sum(1) / direction.square().sum(1).clamp(min=1e-12)[winner]
    return (winner + along.double().clamp(-0.49, 0.49)).argsort(stable=True)


def nearest_neighbour(x: Tensor) -> Tensor:
    """The trip that starts at the first sample and always goes on to the nearest of those not seen yet. x (N, D) -> int64 (N,)."""
    order, far = torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x))
    for step in range(1, len(x)):
        far[order[step - 1]] = torch.inf
        order[step] = ((x - x[order[step - 1]]).square().sum(1) + far).argmin()
    return order


def length(x: Tensor, order: Tensor) -> float:
    """Length of the way through samples (N, D) in that order (N,) and back to the first."""
    trip = x[order]
    return (trip - trip.roll(-1, 0)).norm(dim=1).sum().item()
