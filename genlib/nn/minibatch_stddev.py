"""Minibatch standard deviation (Karras et al. 2018, arXiv:1710.10196, section 3): a discriminator is told how unlike its samples are.

Groups are of consecutive rows of the global batch that count, so that the number of processes changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genlib.distributed import all_gather, gather_with_grad, rank, world_size

TINY = 1e-8
"""Added to a variance, whose root has no slope at 0."""


def with_group_stddev(x: Tensor, valid: Tensor | None = None, group: int = 4) -> Tensor:
    """(B, C, H, W) -> (B, C + 1, H, W): with a map of its group's standard deviation, mean over channels and pixels.

    valid (B,) bool: rows that count; None is all. The last group may be smaller. Rows that do not count are told 0.
    """
    rows = x.shape[0]
    valid = x.new_ones(rows, dtype=torch.bool) if valid is None else valid
    values, counts = gather_with_grad(x.flatten(1).float()), all_gather(valid)
    number = (counts.long().cumsum(0) - 1).clamp(min=0) // group
    groups = -(-len(values) // group)
    member = (number[:, None] == torch.arange(groups, device=x.device)).float() * counts[:, None].float()  # (N, groups)
    size = member.sum(0).clamp(min=1)[:, None]
    centred = values - member @ ((member.T @ values) / size)
    deviation = ((member.T @ centred.square()) / size + TINY).sqrt().mean(1)  # (groups,)
    mine = (member @ deviation)[rank() * rows : (rank() + 1) * rows] if world_size() > 1 else member @ deviation
    return torch.cat([x, mine.to(x.dtype).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)
