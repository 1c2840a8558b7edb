"""Nearest neighbours by distance: retrieval in a space of codes, and how well neighbours agree in kind."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.plurals import counted


def nearest(queries: Tensor, gallery: Tensor, k: int, *, chunk: int = 1024) -> Tensor:
    """Rows of the gallery (M, D) nearest to each query (N, D), nearest first: (N, k) int64; `chunk` rows at a time bound the memory.

    ValueError where the gallery has fewer than k rows.
    """
    if len(gallery) < k:
        raise ValueError(f"{counted(k, 'neighbour is', 'neighbours are')} asked for of {counted(len(gallery), 'sample')}; ask for fewer")
    found = []
    for part in queries.split(chunk):
        distance = part.new_empty(len(part), 0)
        row = torch.empty(len(part), 0, dtype=torch.int64, device=part.device)
        for low in range(0, len(gallery), chunk):
            tile = gallery[low : low + chunk]
            rows = torch.arange(low, low + len(tile), device=part.device).expand(len(part), -1)
            distance, row = torch.cat([distance, torch.cdist(part, tile)], 1), torch.cat([row, rows], 1)
            distance, best = distance.topk(min(k, distance.shape[1]), largest=False)
            row = row.gather(1, best)
        found.append(row)
    return torch.cat(found)


def neighbour_precision(codes: Tensor, labels: Tensor, k: int = 10) -> float:
    """Share in [0, 1] of the k nearest others that have a sample's own label. codes (N, D), labels (N,)."""
    others = nearest(codes, codes, k + 1)
    is_self = others == torch.arange(len(codes), device=codes.device)[:, None]
    is_self[:, -1] |= ~is_self.any(1)  # among many equal codes it may not be listed itself
    return (labels[others[~is_self].view(-1, k)] == labels[:, None]).double().mean().item()
