"""Wasserstein GAN with clipped weights (Arjovsky et al. 2017, arXiv:1701.07875), of dense layers.

A critic gives scores, not chances: if it is 1-Lipschitz, the gap between the mean scores of data and fakes is at most the earth mover's distance
of the two, and the best critic reaches it (Kantorovich & Rubinstein). So its loss says how far the generator still has to go, also where data
and fakes share no place. Here all its weights are brought into [-c, c] after each update, which bounds its slope, if by an unknown number: what it
measures is the distance times that. Without momentum, by RMSProp (algorithm 1); `wgan_gp` bounds the slope itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from genlib.config import Config, DataConfig, OptimConfig, TaskConfig, TrainConfig, tunable
from genlib.functional.adversarial import wasserstein_critic, wasserstein_generator
from genlib.models.adversarial.base.latent_arithmetic import LatentArithmetic
from genlib.models.adversarial.base.players import Networks, TwoPlayers
from genlib.models.adversarial.gan import Dense
from genlib.models.base.health import Health
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Clipped(Config):
    """How the players are scored."""

    n_critic: int = tunable(5, low=1, high=8, at_least=1)
    """Updates of the critic for each one of the generator; a step of training is one of the critic."""
    clip: float = tunable(0.01, low=0.003, high=0.3, log=True, above=0)
    """Largest weight of the critic, c in the paper."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WGANConfig(TaskConfig):
    """The game with dense networks."""

    network: Dense = field(default_factory=Dense)
    """Both players."""
    game: Clipped = field(default_factory=Clipped)
    """How they are scored."""
    health: Health = field(default_factory=Health)
    """When a run is given up."""

    fields: ClassVar[tuple[str, ...]] = ("image|array",)

    def check_data(self, data: DataSpec) -> None:
        self.network.shape(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> WGAN:
        return WGAN(self.network, self.game, self.health, data)


class Wasserstein(TwoPlayers):
    """Base of the tasks whose player `discriminator` is a critic; they say what holds it."""

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        if phase == "generator":
            return wasserstein_generator(self.generator_logits(batch, step)), {}
        real, fake, *scores = self.discriminator_logits(batch, step)
        loss = wasserstein_critic(*scores)
        held, metrics = self.critic_loss(real, fake, scores[0], batch, step)
        return loss + held, {"wasserstein": -loss * self.scale, **metrics}

    def critic_loss(self, real: Tensor, fake: Tensor, on_real: Tensor, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        """What the critic lowers beside (B,), given data and fakes (B, ...) and its scores of data (B, 1); and values to log."""
        return real.new_zeros(len(real)), {}

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """As of all two players; and the critic's estimate of the earth mover's distance, in the units of the data."""
        values = super().joint_evaluation(batch)
        return {**values, "wasserstein": (values["real_logit"] - values["fake_logit"]) * self.scale}


class WGAN(LatentArithmetic, Wasserstein):
    """The task."""

    def __init__(self, networks: Networks, game: Clipped, health: Health, data: DataSpec) -> None:
        super().__init__(networks, game.n_critic, health, data)
        critic, generator = self.phases
        self.phases = (replace(critic, weight_limit=game.clip), generator)


def wgan() -> Recipe:
    """Points around eight places of the plane, by a dense critic of small weights.

    `python jobs/train.py wgan`. Sliced Wasserstein distance 0.27 on a ring of radius 2; samples lie all around it, but at none of the eight places
    alone: a critic of small weights is too simple to part them (Gulrajani et al. 2017, figure 1), as `wgan_gp_points` does. 27 CPU-seconds.
    """
    slow, fast = (OptimConfig(name="rmsprop", learning_rate=rate, beta2=0.9, schedule="cosine") for rate in (2e-4, 2e-3))
    train = TrainConfig(
        steps=3000, global_batch=128, optim=slow, players={"discriminator": fast}, ema_halflife_samples=10_000, evaluate_every_steps=500
    )
    data = DataConfig(train="rings2d")
    same = OptimConfig(name="rmsprop", learning_rate=5e-4, beta2=0.99)
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=same, players={"discriminator": same})
    small = WGANConfig(network=Dense(latent_dim=4, width=16, layers=2), game=Clipped(n_critic=2))
    return Recipe(
        stages=(Stage(task=WGANConfig(network=Dense(width=96), game=Clipped(n_critic=4, clip=0.2)), data=data, train=train),),
        smoke=(Stage(task=small, data=data, train=short),),
    )
