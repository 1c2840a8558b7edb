"""Inception score (Salimans et al. 2016, arXiv:1606.03498): exp E KL(p(y|x) || p(y)), by sums that any order and any ranks add to."""

from __future__ import annotations

import torch
from torch import Tensor

from genlib import distributed, random


class InceptionScore:
    """log IS = H(y) - H(y|x), which needs of each split only its count, the sum of p(y|x) and the sum of -H(y|x).

    As in the paper pictures fall into ten splits, by chance of their number, and the score is the mean over splits.
    """

    def __init__(self, classes: int, *, splits: int = 10, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(splits, classes + 2, dtype=torch.float64, device=device)
        """Rows: the sum of p (K), of sum p log p, and the count."""

    def add(self, index: Tensor, logits: Tensor) -> None:
        """Takes in pictures: their numbers (B,) int64, by which they fall into splits, and logits (B, K)."""
        log_p = logits.to(self.sums).log_softmax(1)
        p = log_p.exp()
        negative_entropy = torch.special.entr(p).sum(1, keepdim=True).neg()
        split = random.randint(index.to(self.sums.device), len(self.sums), seed=0, stream="inception score")
        self.sums.index_add_(0, split, torch.cat([p, negative_entropy, torch.ones_like(negative_entropy)], 1))

    def over_ranks(self) -> InceptionScore:
        """The score's sums over the pictures of all ranks, on every rank."""
        whole = InceptionScore(self.sums.shape[1] - 2, splits=len(self.sums), device=self.sums.device)
        whole.sums = distributed.mean_over_ranks(self.sums) * distributed.world_size()
        return whole

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation over the splits that have pictures. ValueError where none has."""
        sums = self.sums[self.sums[:, -1] > 0.5]
        if not len(sums):
            raise ValueError("an inception score needs pictures, there are none; make some")
        mean = sums / sums[:, -1:]
        values = (torch.special.entr(mean[:, :-2]).sum(1) + mean[:, -2]).exp()
        return values.mean().item(), values.std(unbiased=False).item()
