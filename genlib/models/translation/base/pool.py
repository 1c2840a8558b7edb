"""A pool of translations made before, of which a discriminator learns too (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3).

A translation that comes while there is room is kept, and is what the discriminator sees. Later, for half of them one that was kept before is seen
in its place, and it takes that one's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genlib import random
from genlib.distributed import all_gather, rank


class ImagePool(nn.Module):
    """`size` pictures of a shape (C, H, W), in the state dict; with size 0 a discriminator sees what is made now alone.

    It is one pool, of all ranks: what they make goes through it in order of position, and what is drawn is keyed by position, so that neither the
    number of ranks nor that of micro-batches changes what is seen. Rows that do not count, or are not finite, leave it as it is.
    """

    pictures: Tensor
    """(size, C, H, W)."""
    kept: Tensor
    """() int64: how many there are."""

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("pictures", torch.zeros(size, *shape))
        self.register_buffer("kept", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchanged(self, made: Tensor, position: Tensor, valid: Tensor, *, seed: int, stream: str) -> Tensor:
        """Pictures (B, C, H, W) to be seen in the place of those made at positions (B,), of which it keeps some; valid (B,) bool.

        All ranks call it together.
        """
        if not self.size:
            return made
        made, count = made.float(), len(made)
        every, places = all_gather(made), all_gather(position)
        usable = all_gather(valid & made.flatten(1).isfinite().all(1))
        order = places.argsort(stable=True)
        swaps = random.uniform(places, seed=seed, stream=f"swaps in the pool of {stream}") < 0.5
        slots = random.randint(places, self.size, seed=seed, stream=f"places in the pool of {stream}")
        seen, holds = self._walk(order, usable, swaps, slots)
        both = torch.cat([self.pictures, every])
        self.pictures.copy_(both[holds])
        return both[seen[rank() * count : (rank() + 1) * count]]

    def _walk(self, order: Tensor, usable: Tensor, swaps: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """One row after the other: what each one (N,) sees and what the pool (size,) then holds, as numbers of pooled pictures and, behind, of rows.

        In tensors alone, whose values nobody asks for, so that a plan can be made of it.
        """
        place = torch.arange(self.size, device=order.device)
        rows = torch.arange(self.size, self.size + len(order), device=order.device)
        holds, seen = place.clone(), rows.clone()
        for step in range(len(order)):
            row = order[step : step + 1]
            room = self.kept < self.size
            taken = usable[row] & (room | swaps[row])
            slot = torch.where(room, self.kept, slots[row])
            seen = seen.scatter(0, row, torch.where(taken & ~room, holds[slot.clamp(max=self.size - 1)], rows[row]))
            holds = torch.where(taken & (place == slot), rows[row], holds)
            self.kept.add_((taken & room)[0])
        return seen, holds
