"""Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017, arXiv:1704.00028).

A critic gives scores, not chances: if it is 1-Lipschitz, the gap between the mean scores of data and fakes is at most the earth mover's distance
of the two, and the best critic reaches it (Kantorovich & Rubinstein). So its loss says how far the generator still has to go, also where data
and fakes share no place. It is held near 1-Lipschitz by pulling the norm of its gradient to 1 between data and fakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from genlib import random
from genlib.config import Config, DataConfig, OptimConfig, TaskConfig, TrainConfig, tunable
from genlib.data.transforms.vectors import VectorShape
from genlib.functional.adversarial import gradient_norm, gradient_penalty, interpolates
from genlib.models.adversarial.base.latent_arithmetic import LatentArithmetic
from genlib.models.adversarial.base.players import Networks
from genlib.models.adversarial.dcgan import Convolutional
from genlib.models.adversarial.gan import Dense
from genlib.models.adversarial.wgan import Wasserstein
from genlib.models.base.health import Health
from genlib.nn.batch_norm import batch_norms
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step

NO_ZERO3 = "its gradient penalty goes back through the critic twice, and the weights are gone after the first time"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvolutionalCritic(Convolutional):
    """Networks of convolutions, the critic without batch normalisation."""

    def discriminator(self, shape: VectorShape, condition: int = 0, outputs: int = 1) -> nn.Module:
        return self.convolutions(shape, condition, outputs, normalised=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalised(Config):
    """How the players are scored."""

    n_critic: int = tunable(5, low=1, high=8, at_least=1)
    """Updates of the critic for each one of the generator; a step of training is one of the critic."""
    penalty: float = tunable(10.0, low=0.1, high=100.0, log=True, above=0)
    """Weight of the squared distance of the gradient's norm from 1, lambda in the paper."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WGANGPConfig(TaskConfig):
    """The game with convolutional networks."""

    network: ConvolutionalCritic = field(default_factory=ConvolutionalCritic)
    """Both players."""
    game: Penalised = field(default_factory=Penalised)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image",)
    zero3_refusal: ClassVar[str] = NO_ZERO3

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> WGANGP:
        return WGANGP(self.network, self.game, self.health, data)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseWGANGPConfig(TaskConfig):
    """The game with dense networks."""

    network: Dense = field(default_factory=Dense)
    """Both players."""
    game: Penalised = field(default_factory=Penalised)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)
    zero3_refusal: ClassVar[str] = NO_ZERO3

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> WGANGP:
        return WGANGP(self.network, self.game, self.health, data)


def check_no_batch_norm(critic: nn.Module) -> None:
    """ValueError where a critic normalises over the batch: the penalty is on each sample's own gradient (section 4)."""
    if found := batch_norms(critic):
        raise ValueError(
            f"the critic's layer {found[0]} normalises over the batch, but a gradient penalty is of each sample's own gradient; take layer or group "
            "normalisation, or none"
        )


class WGANGP(LatentArithmetic, Wasserstein):
    """The task, whatever the networks are."""

    def __init__(self, networks: Networks, game: Penalised, health: Health, data: DataSpec) -> None:
        super().__init__(networks, game.n_critic, health, data)
        self.game = game
        check_no_batch_norm(self.discriminator)

    def critic_loss(self, real: Tensor, fake: Tensor, on_real: Tensor, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        share, condition = random.uniform(batch["position"], seed=step.seed, stream="interpolates"), self.condition(batch)[1]
        norm = gradient_norm(lambda x: self.discriminator(x, batch["valid"], *condition), interpolates(real, fake, share))
        return self.game.penalty * gradient_penalty(norm), {"gradient_norm": norm}


def wgan_gp() -> Recipe:
    """Handwritten digits of 16 x 16 pixels, from noise, by a convolutional critic.

    `python jobs/train.py wgan_gp`. Sliced Wasserstein distance of patches 0.046, coverage 0.56, all ten classes; less clear than `dcgan`'s, after 500
    updates of the generator in 86 CPU-seconds.
    """
    optim = OptimConfig(name="adam", learning_rate=1e-3, beta1=0.5, beta2=0.9, schedule="cosine")
    train = TrainConfig(
        steps=2500, global_batch=64, optim=optim, players={"discriminator": optim}, ema_halflife_samples=4000, evaluate_every_steps=500
    )
    data = DataConfig(train="digits", image_size=16)
    small = WGANGPConfig(network=ConvolutionalCritic(latent_dim=8, width=8), game=Penalised(n_critic=2))
    return Recipe(stages=(Stage(task=WGANGPConfig(network=ConvolutionalCritic(width=32)), data=data, train=train),), smoke=_smoke(small, data))


def wgan_gp_points() -> Recipe:
    """Points around eight places of the plane, by a dense critic.

    `python jobs/train.py wgan_gp_points`. All eight places are covered; sliced Wasserstein distance 0.086 on a ring of radius 2, coverage 0.86; 30
    CPU-seconds.
    """
    slow, fast = (OptimConfig(name="adam", learning_rate=rate, beta1=0.5, beta2=0.99, schedule="cosine") for rate in (1e-3, 2e-3))
    train = TrainConfig(
        steps=4000, global_batch=128, optim=slow, players={"discriminator": fast}, ema_halflife_samples=10_000, evaluate_every_steps=500
    )
    # the penalty of 10 keeps the critic too flat between places that are a tenth of the data's width across; 0.1 in the authors' own toy code
    task = DenseWGANGPConfig(network=Dense(width=96), game=Penalised(n_critic=4, penalty=1.0))
    data = DataConfig(train="rings2d")
    small = DenseWGANGPConfig(network=Dense(latent_dim=4, width=16, layers=2), game=Penalised(n_critic=2))
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=_smoke(small, data))


def _smoke(task: TaskConfig, data: DataConfig) -> tuple[Stage, ...]:
    optim = OptimConfig(name="adam", learning_rate=5e-4, beta1=0.5, beta2=0.9)
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=optim, players={"discriminator": optim})
    return (Stage(task=task, data=data, train=train),)
