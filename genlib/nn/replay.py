"""Experience replay: what a generator made in earlier steps, kept so that a discriminator does not forget how to tell it from data.

The idea is that of reinforcement learning (Lin 1992); for adversarial training see Shrivastava et al. 2017 (arXiv:1612.07828, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genlib import random
from genlib.distributed import all_gather


class Replay(nn.Module):
    """The last `capacity` rows of several values that belong together, such as fakes and what they were made for; the oldest goes first.

    All of it lives in the state dict. Rows are drawn by position, and put in by the order of positions over all ranks, once a step: so any number
    of workers, and any number of micro-batches, see and keep the same.
    """

    count: Tensor
    """() int64: rows that were ever put in."""

    def __init__(self, capacity: int, shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.capacity, self.names = capacity, [f"kept_{number}" for number in range(len(shapes))]
        for name, shape in zip(self.names, shapes, strict=True):
            self.register_buffer(name, torch.zeros(capacity, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.waiting: list[tuple[Tensor, ...]] = []

    def mixed(self, fresh: Sequence[Tensor], position: Tensor, *, share: float, seed: int) -> list[Tensor]:
        """New rows (B, ...) of each value, of which a share is replaced by kept ones, all values of a row together. position (B,) int64.

        Every kept row is as likely as any other; while nothing is kept all rows are the new ones.
        """
        held = self.count.clamp(max=self.capacity)
        draw = random.uniform(position, (2,), seed=seed, stream="replayed fakes")
        old, place = (draw[:, 0] < share) & (held > 0), (draw[:, 1] * held).long()
        kept = (self.get_buffer(name)[place].to(one.dtype) for name, one in zip(self.names, fresh, strict=True))
        return [torch.where(old.view(-1, *[1] * (one.dim() - 1)), was, one) for one, was in zip(fresh, kept, strict=True)]

    def put(self, fresh: Sequence[Tensor], position: Tensor, valid: Tensor) -> None:
        """Has this rank's rows (B, ...) kept from the next `step` on, those that are valid (B,) and finite."""
        values = [one.detach().float() for one in fresh]
        for one in values:
            valid = valid & one.flatten(1).isfinite().all(1)
        self.waiting.append((position, valid, *values))

    @torch.no_grad()
    def step(self) -> None:
        """Takes in what was put since the last call. All ranks call it together."""
        if not self.waiting:
            return
        position, valid, *fresh = (all_gather(torch.cat(parts)) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        rows = position.argsort()
        rows = rows[valid[rows]][-self.capacity :]
        dropped = int(valid.sum()) - len(rows)
        place = (self.count + dropped + torch.arange(len(rows), device=rows.device)) % self.capacity
        for name, one in zip(self.names, fresh, strict=True):
            self.get_buffer(name)[place] = one[rows]
        self.count += dropped + len(rows)
