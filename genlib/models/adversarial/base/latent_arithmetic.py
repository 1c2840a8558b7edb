"""What one does with the noise of samples: directions of attributes, and sums (Radford et al. 2016, arXiv:1511.06434, section 6.3.2)."""

from __future__ import annotations

from dataclasses import replace

import torch

from genlib.models.adversarial.base.players import TwoPlayers
from genlib.plurals import counted
from genlib.ports import Amounts, Direction, Sample, SampleFrames, Seeds, Sizes, Values
from genlib.task import action
from genlib.types import DataSpec


class LatentArithmetic(TwoPlayers):
    """Stands before another `TwoPlayers` among the bases of a task whose generator is told nothing."""

    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), code=self.noise_size)

    @action(joint=True)
    @torch.no_grad()
    def attribute_direction(self, *, seed: Seeds, value: Values) -> Direction:
        """Change of the noise (noise_size,) that goes with one more of an attribute of which the samples of seeds have so much, one value each.

        It is the slope of noise on value by least squares: of values 0 and 1, the mean noise of those that have the attribute less the others'.
        """
        amount = torch.tensor(value, dtype=torch.float32, device=self.device)
        if len(value) != len(seed) or not amount.std(unbiased=False) > 0:
            given = f"{counted(len(value), 'value')} for {counted(len(seed), 'seed')}"
            raise ValueError(f"{given}, {len(set(value))} of them different: give one each, not all the same")
        centred = amount - amount.mean()
        return centred @ self.latents(seed) / centred.square().sum()

    @action
    @torch.no_grad()
    def move(self, *, seed: Seeds, direction: Direction, amount: Amounts) -> SampleFrames:
        """Images (B, len(amount), C, H, W), or vectors: each seed's, its noise moved by every amount of a direction (noise_size,)."""
        if direction.shape != (self.noise_size,):
            raise ValueError(f"a direction of shape {tuple(direction.shape)} is not ({self.noise_size},), the model's; give such a one")
        steps = torch.tensor(amount, dtype=torch.float32, device=self.device)[:, None] * direction.to(self.device)
        return self.generated((self.latents(seed)[:, None] + steps).flatten(0, 1)).unflatten(0, (len(seed), len(amount)))

    @action(joint=True)
    @torch.no_grad()
    def combine(self, *, seed: Seeds, weight: Values) -> Sample:
        """The sample (1, ...) whose noise is the weighted sum of those of seeds: weights 1, -1, 1 say a - b + c."""
        if len(weight) != len(seed):
            raise ValueError(f"weight has {counted(len(weight), 'number')} for {counted(len(seed), 'seed')}; give one each")
        return self.generated(torch.tensor([weight], dtype=torch.float32, device=self.device) @ self.latents(seed))
