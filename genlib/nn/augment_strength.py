"""How strongly a discriminator's pictures are augmented, steered by how far it overfits (Karras et al. 2020, arXiv:2006.06676, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlib.nn.step_sum import StepSum, taken


class AugmentStrength(nn.Module):
    """The probability p of each change of a picture, from the signs of the discriminator's logits on data, of which the mean is r_t.

    Without overfitting logits on data spread around 0 and r_t is near 0; with it they are all above and r_t is near 1. Every `every_steps` steps
    p goes up where r_t is above the target, else down, by as much as takes it from 0 to 1 within `speed_samples` samples. It stays in [0, 1].
    """

    strength: Tensor
    """(): p."""
    signs: Tensor
    """(2,): sum of the signs since the last change of p, and how many."""

    def __init__(self, *, target: float = 0.6, speed_samples: float = 500_000, every_steps: int = 4, start: float = 0.0) -> None:
        super().__init__()
        self.target, self.speed_samples, self.every_steps = target, speed_samples, every_steps
        self.register_buffer("strength", torch.tensor(float(start)))
        self.register_buffer("signs", torch.zeros(2))
        self.seen = StepSum()

    @torch.no_grad()
    def observe(self, logits: Tensor, valid: Tensor) -> None:
        """Logits (B, ...) on augmented data, where valid (B,) is true and they are finite. Once a micro-batch."""
        logits = logits.float().flatten(1)
        self.seen.add(logits.sign().mean(1), valid & logits.isfinite().all(1))

    @torch.no_grad()
    def settle(self, index: int) -> None:
        """After the step of that index, on all ranks: what they saw becomes one, and p moves where it is time to."""
        ((total, count),) = taken(self.seen)
        self.signs += torch.cat([total, count[None]])
        if (index + 1) % self.every_steps == 0:
            total, count = self.signs.unbind()
            up = torch.sign(total / count.clamp(min=1) - self.target)
            self.strength.add_(up * count / self.speed_samples).clamp_(0, 1)
            self.signs.zero_()
