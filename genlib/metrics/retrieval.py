"""Retrieval over a set of pairs: how often the right partner is among the k nearest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ranks(queries: Tensor, candidates: Tensor, *, chunk: int = 1024) -> Tensor:
    """How many candidates are nearer to query i than candidate i. queries, candidates (N, D) normalised -> (N,) int64; ties count half."""
    found = []
    for low in range(0, len(queries), chunk):
        similarity = queries[low : low + chunk] @ candidates.T
        own = similarity.diagonal(low)[:, None]
        nearer, equal = (similarity > own).sum(1), (similarity == own).sum(1) - 1
        found.append(nearer + equal // 2)
    return torch.cat(found)


def recall(image: Tensor, text: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall in [0, 1] both ways, under open_clip's names. image, text (N, D) normalised, row i of one belonging to row i of the other."""
    ways = {"image_to_text": ranks(image, text), "text_to_image": ranks(text, image)}
    return {f"{way}_R@{k}": (rank < k).double().mean().item() for way, rank in ways.items() for k in ks}
