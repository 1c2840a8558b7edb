"""Pix2Pix (Isola et al. 2017, arXiv:1611.07004): from one picture to another, learnt from pairs.

A U-Net draws B from A; a discriminator looks at A beside B, one patch after the other, and the mean of its map counts. That term asks for sharp
detail, and L1 for the right colours at the right places. The generator's noise is dropout, in training and afterwards (section 2.2).

Normalisation is over the pixels of one picture, as the paper's batch normalisation is with its batches of one, afterwards too (section 3.4): so a
translation depends on its own picture and noise alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib import random
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.functional.adversarial import non_saturating_discriminator, non_saturating_generator
from genlib.models.base.health import Health
from genlib.models.translation.base.pictures import PictureConfig, random_crop
from genlib.models.translation.base.translator import Patches, Translator, absolute, decibels, shown, start_small
from genlib.ports import Image, Seeds
from genlib.recipe import Recipe, Stage
from genlib.task import Phase, Task, action
from genlib.types import Batch, DataSpec, Metrics, Step

DROPPED = 3
"""Layers from the smallest map up in which dropout is (section 6.1.1)."""


class UNet(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] -> the same, through `downs` halvings; sides are multiples of 2**downs."""

    def __init__(self, channels: int, width: int, downs: int, dropout: float) -> None:
        super().__init__()
        widths = [channels, *(min(2**i, 8) * width for i in range(downs))]
        self.dropout = dropout
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths))
        # neither the first map is normalised nor the smallest, which may be a single pixel
        self.down_norms = nn.ModuleList(nn.InstanceNorm2d(b, affine=True) for b in widths[2:-1])
        ups = [(widths[i + 1] * (1 if i == downs - 1 else 2), widths[i]) for i in reversed(range(downs))]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=at == downs - 1) for at, (a, b) in enumerate(ups))
        self.up_norms = nn.ModuleList(nn.InstanceNorm2d(b, affine=True) for _, b in ups[:-1])
        start_small(self, width)

    def forward(self, x: Tensor, key: Tensor, seed: int) -> Tensor:
        """key (B,) int64 and the seed say what dropout leaves out of each row."""
        maps = [self.downs[0](x)]
        for at, down in enumerate(self.downs[1:]):
            x = down(F.leaky_relu(maps[-1], 0.2))
            maps.append(x if at == len(self.down_norms) else self.down_norms[at](x))
        x = maps.pop()
        for at, up in enumerate(self.ups):
            x = up(F.relu(x))
            if not maps:
                return torch.tanh(x.float())
            x = self.up_norms[at](x)
            x = torch.cat([self._dropped(x, at, key, seed) if at < DROPPED else x, maps.pop()], 1)
        raise AssertionError

    def _dropped(self, x: Tensor, at: int, key: Tensor, seed: int) -> Tensor:
        kept = random.uniform(key, tuple(x.shape[1:]), seed=seed, stream=f"dropout of layer {at}") >= self.dropout
        return x * kept / (1 - self.dropout)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pix2PixConfig(TaskConfig):
    """Both networks, and what the generator is asked for. The defaults are the paper's."""

    pictures: PictureConfig = field(default_factory=PictureConfig)
    """Sizes and augmentation."""
    width: int = limited(64, at_least=1)
    """Channels of the generator at half the size; each further halving doubles them, up to eightfold."""
    downs: int = limited(8, at_least=2)
    """Halvings of the generator."""
    dropout: float = tunable(0.5, low=0.0, high=0.6, at_least=0, below=1)
    """Share of the numbers that the three innermost layers leave out: the generator's noise."""
    patches: Patches = field(default_factory=Patches)
    """The discriminator."""
    l1_weight: float = tunable(100.0, low=10.0, high=300.0, log=True, at_least=0)
    """Price of the mean absolute difference from the true picture, in [-1, 1] (lambda)."""
    adversarial_weight: float = limited(1.0, at_least=0)
    """Price of what the discriminator says; 0 leaves L1 alone, whose pictures are blurred."""
    backwards: bool = False
    """Makes the source of the image, B to A."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image", "source")

    def check_sizes(self, data: DataSpec) -> int:
        """Pixels a side. ValueError where the networks do not fit them."""
        side = self.pictures.side(data)
        if side % 2**self.downs:
            raise ValueError(f"image_size {side} is not divisible by 2**downs = {2**self.downs}; use {-(-side // 2**self.downs) * 2**self.downs}")
        self.patches.check(side)
        return side

    def check_data(self, data: DataSpec) -> None:
        self.check_sizes(data)
        if not data.has_source:
            raise ValueError(
                "pix2pix learns from pairs, and the samples have no second picture (a member .source.png): make pairs by "
                "`prepare_data.py pairs`, take the set shapes_edges, or train cyclegan, which needs none"
            )

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Pix2Pix:
        return Pix2Pix(self, data)


class Pix2Pix(Translator):
    """The task: a U-Net against a discriminator of patches of pairs."""

    objective = ("l1", "min")
    two_sets = False
    phases = (Phase(name="discriminator", player="discriminator"), Phase(name="generator", player="generator"))

    def __init__(self, config: Pix2PixConfig, data: DataSpec) -> None:
        config.check_sizes(data)
        super().__init__(config.pictures, config.health, data)
        self.config, self.averaged = config, ("generator",)
        self.generator = UNet(self.channels, config.width, config.downs, config.dropout)
        self.discriminator = config.patches.network(2 * self.channels, affine=True)

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What is given, and what is to be made of it."""
        return (batch["b"], batch["a"]) if self.config.backwards else (batch["a"], batch["b"])

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        given, true = self.pair(batch)
        if phase == "discriminator":
            self.progress.fill_(step.progress)
            with torch.no_grad():
                made = self.generator(given, batch["position"], step.seed)
            real, fake = (self.discriminator(torch.cat([given, one], 1)) for one in (true, made))
            right = {"real_accuracy": (real > 0).float().flatten(1).mean(1), "fake_accuracy": (fake < 0).float().flatten(1).mean(1)}
            return 0.5 * non_saturating_discriminator(real, fake), right
        made = self.generator(given, batch["position"], step.seed)
        l1 = absolute(made, true)
        loss = self.config.l1_weight * l1
        if self.config.adversarial_weight:
            loss = loss + self.config.adversarial_weight * non_saturating_generator(self.discriminator(torch.cat([given, made], 1)))
        return loss, {"l1": l1}

    def evaluation_features(self, batch: Batch) -> Batch:
        given, true = self.pair(batch)
        made, true = shown(self.generator(given, batch["position"], 0)), shown(true)
        return {"b_real": true, "b_made": made, "l1": absolute(made, true), "psnr_db": decibels(made, true)}

    @action
    @torch.no_grad()
    def translate(self, *, image: Image, seed: Seeds) -> Image:
        """The other picture of a pair, of pictures (B, C, side, side) in [0, 1]; the seed is of the noise, which changes little."""
        key = torch.tensor(seed, dtype=torch.int64, device=self.device)
        return shown(self.generator(self.seen(image), key, 0))


def pix2pix() -> Recipe:
    """Outlines of shapes filled in, 16 x 16 pixels.

    `python jobs/train.py pix2pix`. Held-out pictures come back with 25.2 dB (mean absolute error 0.021): colour, place and size are right, and
    most kinds can be told; large discs keep a dark spot in their middle; 82 CPU-seconds. With 400 steps 22.6 dB, and 21.2 dB without L1
    (`--task.l1-weight 0`).
    """
    optim = OptimConfig(name="adam", learning_rate=2e-3, beta1=0.5, schedule="cosine")
    train = TrainConfig(steps=2000, global_batch=16, optim=optim, evaluate_every_steps=500)
    task = Pix2PixConfig(width=16, downs=4, patches=Patches(width=16, layers=1))
    small = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(name="adam", learning_rate=1e-3, beta1=0.5))
    tiny = Pix2PixConfig(width=4, downs=3, patches=Patches(width=8, layers=1))
    data = DataConfig(train="shapes_edges", image_size=16)
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=(Stage(task=tiny, data=data, train=small),))


def pix2pix_256() -> Recipe:
    """The published size: 256 pixels, 54,413,955 and 2,768,705 parameters, batches of one, Adam at 2e-4 (section 3.3). For a GPU, and your own pairs:

    `python jobs/prepare_data.py pairs facades --out data/facades`, then `python jobs/train.py pix2pix_256 --data.train data/facades`. The paper
    trains 200 epochs, 80,000 steps of its 400 facades; the rate falls linearly from the first step, where its code waits for half of them.
    """
    optim = OptimConfig(name="adam", learning_rate=2e-4, beta1=0.5, schedule="linear")
    train = TrainConfig(steps=80_000, global_batch=1, optim=optim, evaluate_every_steps=5000)
    return Recipe(
        stages=(Stage(task=Pix2PixConfig(pictures=random_crop(256, 286)), data=DataConfig(image_size=256), train=train),),
        smoke=pix2pix().smoke,
    )
