"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593): between two sets of pictures without pairs.

One translator makes B of A, another A of B, and each has a discriminator that tells what it makes from data. That alone would let any B stand for any
A; so what has gone there and back must be what it was (cycle consistency). Discriminators also see translations made before (`ImagePool`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from genlib.config import DataConfig, OptimConfig, TrainConfig, limited, tunable
from genlib.functional.adversarial import least_squares_discriminator, least_squares_generator
from genlib.models.translation.base.pictures import random_crop
from genlib.models.translation.base.pool import ImagePool
from genlib.models.translation.base.residual import blocks, ending, entry
from genlib.models.translation.base.translator import Patches, absolute, start_small
from genlib.models.translation.base.two_domains import DOMAINS, TwoDomains, TwoDomainsConfig, of_domains, scored
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step


def residual_generator(channels: int, width: int, count: int, halvings: int = 2) -> nn.Sequential:
    """c7s1-64, d128, d256, so many R256, u128, u64, c7s1-3 (section 7.2). Pictures (B, channels, H, W) in [-1, 1] -> the same."""
    made = nn.Sequential(*entry(channels, width, halvings), *blocks(width, halvings, count), *ending(channels, width, halvings))
    start_small(made, width)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class CycleGANConfig(TwoDomainsConfig):
    """Networks, and what translators are asked for. The defaults are the paper's at 256 pixels."""

    blocks: int = limited(9, at_least=1)
    """Residual blocks of a generator; the paper has 6 at 128 pixels and below."""
    cycle_weight: float = tunable(10.0, low=2.0, high=30.0, log=True, at_least=0)
    """Price of the mean absolute difference after a round trip, in [-1, 1] (lambda)."""
    identity_weight: float = limited(0.5, at_least=0)
    """Price, as a share of `cycle_weight`, of changing a picture that is of the domain already (section 5.2); it keeps colours; 0 is off."""
    pool_size: int = limited(50, at_least=0)
    """Translations kept of each domain (section 4); 0 is none."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> CycleGAN:
        return CycleGAN(self, data)


class CycleGAN(TwoDomains):
    """The task: both generators against both discriminators, by least squares."""

    def __init__(self, config: CycleGANConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.config = config
        networks = {domain: residual_generator(self.channels, config.width, config.blocks, config.halvings) for domain in DOMAINS}
        self.translators = nn.ModuleDict(networks)
        self.pools = nn.ModuleDict({domain: ImagePool(config.pool_size, (self.channels, self.side, self.side)) for domain in DOMAINS})

    def translated(self, x: Tensor, to: str) -> Tensor:
        return self.translators[to](x).float()

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        real = of_domains(batch)
        if phase == "translators":
            return self.translators_loss(real)
        self.progress.fill_(step.progress)
        losses, metrics = [], {}
        for domain, other in (DOMAINS, DOMAINS[::-1]):
            with torch.no_grad():
                made = self.translated(real[other], domain)
            if self.training:
                kept = partial(self.pools[domain].exchanged, seed=step.seed, stream=domain)  # type: ignore[operator]
                made = kept(made, batch["position"], batch["valid"])
            true, fake = self.discriminators[domain](real[domain]), self.discriminators[domain](made)
            losses.append(least_squares_discriminator(true, fake))
            metrics |= scored(true, fake, domain)
        return losses[0] + losses[1], metrics

    def translators_loss(self, real: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        """Both adversarial terms, both cycles, and the identity of both domains, each (B,)."""
        config, terms, total = self.config, {}, torch.zeros(())
        for domain, other in (DOMAINS, DOMAINS[::-1]):
            made, back = self.round_trip(real[other], domain)
            terms[f"adversarial_{domain}"] = least_squares_generator(self.discriminators[domain](made))
            terms[f"cycle_{other}"] = absolute(back, real[other])
            total = total + terms[f"adversarial_{domain}"] + config.cycle_weight * terms[f"cycle_{other}"]
            if config.identity_weight:
                terms[f"identity_{domain}"] = absolute(self.translated(real[domain], domain), real[domain])
                total = total + config.identity_weight * config.cycle_weight * terms[f"identity_{domain}"]
        return total, terms


def cyclegan() -> Recipe:
    """Shapes in warm colours to shapes in cool ones and back, 16 x 16 pixels.

    `python jobs/train.py cyclegan`. A linear classifier takes 99.8% of the held-out translations for ones of the other set, a round trip ends
    0.019 from where it began (mean absolute error), a picture of the set already changes by 0.018; place, size and most kinds stay.
    """
    optim = OptimConfig(name="adam", learning_rate=5e-4, beta1=0.5, schedule="cosine")
    train = TrainConfig(steps=800, global_batch=8, optim=optim, evaluate_every_steps=500)
    task = CycleGANConfig(width=16, halvings=1, blocks=3, patches=Patches(width=32, layers=1))
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(name="adam", learning_rate=1e-3, beta1=0.5))
    # a price at which plain gradient descent too, by which tests compare strategies, stays where it learns
    tiny = CycleGANConfig(width=4, halvings=1, blocks=1, patches=Patches(width=8, layers=1), pool_size=20, cycle_weight=0.5)
    data = DataConfig(train="shapes_warm", other="shapes_cool", image_size=16)
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=(Stage(task=tiny, data=data, train=small),))


def cyclegan_256() -> Recipe:
    """The published size: 256 pixels, 9 blocks, generators of 11,378,179 and discriminators of 2,764,737 parameters, batches of one, Adam at 2e-4.

    For a GPU, and your own two sets: `python jobs/prepare_data.py domains horse2zebra --out data/horse2zebra`, then
    `python jobs/train.py cyclegan_256 --data.train data/horse2zebra/A --data.other data/horse2zebra/B`. The paper trains 200 epochs, 266,800 steps
    of its 1,334 zebras; the rate falls linearly from the first step, where the paper waits for half of them.
    """
    optim = OptimConfig(name="adam", learning_rate=2e-4, beta1=0.5, schedule="linear")
    train = TrainConfig(steps=266_800, global_batch=1, optim=optim, evaluate_every_steps=10_000)
    stage = Stage(task=CycleGANConfig(pictures=random_crop(256, 286)), data=DataConfig(image_size=256), train=train)
    return Recipe(stages=(stage,), smoke=cyclegan().smoke)
