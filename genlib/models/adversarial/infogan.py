"""InfoGAN (Chen et al. 2016, arXiv:1606.03657): codes that mean something, learnt without labels.

A part of the noise is a code: a category, all as likely, and numbers, uniform in [-1, 1]. On the discriminator's trunk a head Q says which code a
sample was made from, and both it and the generator raise the log-probability of what is right. With the code's entropy that is a lower bound on the
mutual information of code and sample, so the code must show: in data of clusters the category comes to name them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.config import Config, DataConfig, OptimConfig, TaskConfig, TrainConfig, limited, tunable
from genlib.functional.divergence import gaussian_log_density
from genlib.models.adversarial.dcgan import Convolutional
from genlib.models.adversarial.gan import GAN, Dense, Game
from genlib.models.base.health import Health
from genlib.plurals import counted
from genlib.ports import Code, Sample, Seeds, Sizes
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step

NARROWEST = -6.0
"""Smallest logarithm of the variance of a number that Q gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes(Config):
    """What the code is of, and how much it counts."""

    categories: int = limited(10, at_least=2)
    """Values of the category."""
    numbers: int = limited(2, at_least=0)
    """Continuous numbers beside it."""
    category_weight: float = tunable(1.0, low=0.1, high=3.0, log=True, at_least=0)
    """Weight of the category's information, lambda in the paper."""
    number_weight: float = tunable(0.1, low=0.01, high=1.0, log=True, at_least=0)
    """Weight of that of the numbers."""

    @property
    def size(self) -> int:
        """Numbers of a code: the category one-hot, then the others."""
        return self.categories + self.numbers

    @property
    def outputs(self) -> int:
        """Numbers that Q gives: a logit a category, then means, then logarithms of variances."""
        return self.categories + 2 * self.numbers

    def of(self, noise: Tensor) -> Tensor:
        """The code (B, size) that standard normal noise (B, size) stands for: the largest is the category, the others become uniform in [-1, 1]."""
        category = F.one_hot(noise[:, : self.categories].argmax(1), self.categories).to(noise)
        return torch.cat([category, torch.erf(noise[:, self.categories :] / math.sqrt(2))], 1)

    def information(self, read: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bounds (B,) in nats on what samples tell of their codes (B, size), of the category and of the numbers, by what Q reads (B, outputs).

        Each is log Q(code | sample) plus the entropy: the first is at most log(categories). The mean over samples is the bound (eq. 5).
        """
        logits, mean, logvar = read.split([self.categories, self.numbers, self.numbers], 1)
        category = math.log(self.categories) + (logits.log_softmax(1) * code[:, : self.categories]).sum(1)
        density = gaussian_log_density(code[:, self.categories :], mean, logvar.clamp(min=NARROWEST))
        return category, (math.log(2) + density).sum(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoGANConfig(TaskConfig):
    """The game with dense networks."""

    network: Dense = field(default_factory=Dense)
    """Both players."""
    codes: Codes = field(default_factory=Codes)
    """What the generator must show."""
    game: Game = field(default_factory=Game)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)

    def validate(self) -> None:
        check_no_replay(self.game)

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> InfoGAN:
        return InfoGAN(self.network, self.codes, self.game, self.health, data)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvInfoGANConfig(TaskConfig):
    """The game with convolutional networks."""

    network: Convolutional = field(default_factory=Convolutional)
    """Both players."""
    codes: Codes = field(default_factory=Codes)
    """What the generator must show."""
    game: Game = field(default_factory=Game)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def validate(self) -> None:
        check_no_replay(self.game)

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> InfoGAN:
        return InfoGAN(self.network, self.codes, self.game, self.health, data)


def check_no_replay(game: Game) -> None:
    """ValueError where earlier fakes are replayed, whose codes are not kept."""
    if game.replay:
        raise ValueError(f"game.replay is {game.replay}, but Q reads the codes of the step's own fakes alone; set it to 0")


class CodedGenerator(nn.Module):
    """Noise (B, latent + code), of which the last numbers become the code -> samples; see `Codes.of`."""

    def __init__(self, net: nn.Module, codes: Codes) -> None:
        super().__init__()
        self.net, self.codes = net, codes

    def forward(self, noise: Tensor, valid: Tensor | None = None) -> Tensor:
        """See the class; `valid` as of `BatchNorm`."""
        latent, rest = noise[:, : -self.codes.size], noise[:, -self.codes.size :]
        return self.net(latent, valid, self.codes.of(rest))


class InfoGAN(GAN):
    """The task. The discriminator's outputs are the logit of being data, then what Q says."""

    networks: Dense | Convolutional
    companions = replace(GAN.companions, assess="genlib.models.adversarial.infogan_assess:assess")

    def __init__(self, network: Dense | Convolutional, codes: Codes, game: Game, health: Health, data: DataSpec) -> None:
        self.codes = codes  # before: `both` reads it
        super().__init__(network, game, health, data)

    def both(self) -> tuple[nn.Module, nn.Module]:
        generator = CodedGenerator(self.networks.generator(self.shape, self.codes.size), self.codes)
        return generator, self.networks.discriminator(self.shape, outputs=1 + self.codes.outputs)

    @property
    def noise_size(self) -> int:
        return self.networks.latent_dim + self.codes.size

    def sizes(self, data: DataSpec) -> Sizes:
        return self.shape.port_sizes(data, code=self.codes.size)

    def code(self, noise: Tensor) -> Tensor:
        """The code (B, size) in a sample's noise (B, noise_size)."""
        return self.codes.of(noise[:, -self.codes.size :])

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        code = self.code(self.noise(batch, step.seed, phase))
        if phase == "generator":
            fake = self.generator_logits(batch, step)
            loss, metrics = self.passing_loss(fake[:, :1]), {}
        else:
            _, _, real, fake = self.discriminator_logits(batch, step)
            loss, metrics = self.telling_loss(real[:, :1], fake[:, :1], batch, step)
        category, numbers = self.codes.information(fake[:, 1:], code)
        loss = loss - self.codes.category_weight * category - self.codes.number_weight * numbers
        return loss, {**metrics, "category_information": category, "number_information": numbers}

    def evaluation_features(self, batch: Batch) -> Batch:
        return {**super().evaluation_features(batch), "code": self.code(self.noise(batch, 0, "evaluation"))}

    def judged(self, real: Tensor, fake: Tensor) -> Batch:
        return {**super().judged(real, fake), "read": fake[:, 1:]}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """As of all games; and of generated samples the bounds on what they tell of their codes, and how often Q reads the right category."""
        category, numbers = self.codes.information(batch["read"], batch["code"])
        right = batch["read"][:, : self.codes.categories].argmax(1) == batch["code"][:, : self.codes.categories].argmax(1)
        found = {"category_information": category, "number_information": numbers, "code_accuracy": right.float()}
        return {**super().joint_evaluation(batch), **found}

    @action
    @torch.no_grad()
    def decode(self, *, seed: Seeds, code: Code) -> Sample:
        """Images (len(seed), C, H, W) in [0, 1], or vectors (len(seed), D), each of its own seed and code.

        A code (B, categories + numbers) has 1 at its category and 0 at the others, then numbers in [-1, 1].
        """
        if len(code) != len(seed) or code.shape[1] != self.codes.size:
            raise ValueError(
                f"codes of shape {tuple(code.shape)} are given for {counted(len(seed), 'seed')}; give one of {self.codes.size} numbers each"
            )
        latent = self.latents(seed)[:, : self.networks.latent_dim]
        x = self.in_data_units(self.generator.net(latent, None, code.to(self.device, torch.float32)))  # type: ignore[operator,union-attr]
        return self.shape.image(x.flatten(1)) if self.shape.is_image else x

    @action
    @torch.no_grad()
    def read(self, *, image: Sample) -> Code:
        """The codes (B, categories + numbers) that Q reads in images (B, C, H, W) or vectors (B, D): probabilities of categories, then numbers."""
        x = self.shape.flat(image, self.device)
        x = self.shape.image(x) if self.networks.member == "image" else x
        said = self.discriminator(self.real({self.networks.member: x}))[:, 1:]
        return torch.cat([said[:, : self.codes.categories].softmax(1), said[:, self.codes.categories : self.codes.size]], 1)


def infogan() -> Recipe:
    """Points around eight places of the plane, each named by a category that nobody told.

    `python jobs/train.py infogan`. Each category is one of the eight places: it is read off all samples, and the bound on its information is 2.079
    of at most 2.079 nats; what Q reads in held-out points tells all their places apart. Sliced Wasserstein distance 0.08 on a ring of radius 2,
    coverage 0.47; 36 CPU-seconds beside other work.
    """
    optim = OptimConfig(name="adam", learning_rate=2e-3, beta1=0.0, beta2=0.9, schedule="cosine")
    train = TrainConfig(
        steps=2500, global_batch=128, optim=optim, players={"discriminator": optim}, ema_halflife_samples=10_000, evaluate_every_steps=500
    )
    task = InfoGANConfig(network=Dense(width=64), codes=Codes(categories=8, numbers=0, category_weight=0.5), game=Game(label_smoothing=0.1))
    data, small = DataConfig(train="rings2d"), InfoGANConfig(network=Dense(latent_dim=4, width=16, layers=2), codes=Codes(categories=4, numbers=1))
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=_smoke(small, data))


def infogan_digits() -> Recipe:
    """Handwritten digits of 16 x 16 pixels, with a category and two numbers that nobody told.

    `python jobs/train.py infogan_digits`. A person sees one digit in most categories (0, 3, 2, 5, 6, 1), two in some (9 and 4, 9 and 5), and in the
    numbers how closed a stroke is; guessing a sample's category by the digit that it looks like is right for 74%, a held-out digit by the category
    that Q reads in it for 51%, as Q never sees data. Sliced Wasserstein distance of patches 0.046, coverage 0.50, all ten classes; 92 CPU-seconds
    beside other work.
    """
    fast, slow = (OptimConfig(name="adam", learning_rate=rate, beta1=0.5, schedule="cosine") for rate in (1e-3, 4e-4))
    train = TrainConfig(steps=1500, global_batch=64, optim=fast, players={"discriminator": slow}, ema_halflife_samples=4000, evaluate_every_steps=500)
    task = ConvInfoGANConfig(network=Convolutional(latent_dim=62, width=32), game=Game(label_smoothing=0.1))
    data, small = DataConfig(train="digits", image_size=16), ConvInfoGANConfig(network=Convolutional(latent_dim=8, width=8))
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=_smoke(small, data))


def _smoke(task: TaskConfig, data: DataConfig) -> tuple[Stage, ...]:
    optim = OptimConfig(name="adam", learning_rate=5e-3, beta1=0.5)
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=optim, players={"discriminator": optim})
    return (Stage(task=task, data=data, train=train),)
