"""Restricted Boltzmann machines (Smolensky 1986), learnt by contrastive divergence (Hinton 2002, doi:10.1162/089976602760128018).

A side of visible units and a side of hidden ones give each pair of their states an energy, and data should have less of it than all
else. The rule adds E_data[v h'] - E_model[v h'] to the weights. Where the model's side comes from tells the two ways apart: a few Gibbs
steps from the data (CD-k), or chains of Gibbs steps that go on from update to update (PCD, Tieleman 2008, doi:10.1145/1390156.1390290),
which see more of what the model believes in. Choices of settings follow Hinton's guide (2012,
doi:10.1007/978-3-642-35289-8_32).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.data.transforms.vectors import VectorShape
from genlib.functional import gibbs
from genlib.functional.gibbs import Draw, RBMParams
from genlib.models.energy.base.contrastive import ContrastiveTask
from genlib.models.energy.base.rbm_base import RBMBaseConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import DataSpec

_STRIDE = 7919
"""How far apart the units are that the pseudo-likelihood looks at: a prime, to come by all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RBMConfig(RBMBaseConfig):
    """Visible units of 0 and 1; numbers in [0, 1], such as grey pixels, are the chance of a 1."""

    sample_pixels: bool = True
    """Throw a coin for each number in [0, 1] each time a sample is seen: the model then is one of binary data, and its likelihood that of
    data. False learns from the chances as they are, with less noise and a worse likelihood."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> RBM:
        return RBM(self, VectorShape.of(data, self.image_size))


class RBM(ContrastiveTask):
    """The task, for Bernoulli units."""

    config: RBMConfig

    def __init__(self, config: RBMConfig, shape: VectorShape, visible: int = 0, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__(config, shape, visible or shape.size, upstream=upstream)

    def drawn(self, v: Tensor, draw: Draw) -> Tensor:
        return draw.coins(v, "pixels")

    def states(self, v: Tensor, draw: Draw) -> Tensor:
        return self.drawn(v, draw) if self.config.sample_pixels else v

    def misfit(self, rbm: RBMParams, v: Tensor, draw: Draw, count: int, given: Tensor | None = None) -> Tensor:
        """-log pseudo-likelihood, nats."""
        size, count = v.shape[1], min(count, v.shape[1])
        number = (draw.position * (count * _STRIDE))[:, None] + torch.arange(0, count * _STRIDE, _STRIDE, device=v.device)
        return -gibbs.pseudo_likelihood(rbm, v, number % size, given)

    def measure(self, x: Tensor) -> None:
        """Sets `base` by samples (N, D), with a pseudo-count of one for each value. ValueError where a number is not in [0, 1]."""
        if x.min() < 0 or x.max() > 1:
            raise ValueError(
                f"the samples have numbers from {x.min():.3g} to {x.max():.3g}, and Bernoulli units take chances in [0, 1]; "
                "take the recipe rbm_gaussian, or images"
            )
        v = self.to_visible(x)
        self.net.base.copy_(torch.logit((v.sum(0) + 1) / (len(v) + 2)))


def smoke(task: RBMBaseConfig, data: str) -> tuple[Stage, ...]:
    """The smallest form of a recipe."""
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(name="sgd", learning_rate=0.2))
    return (Stage(task=task, data=DataConfig(train=data), train=train),)


def rbm() -> Recipe:
    """Handwritten digits of 8 x 8 pixels, each the chance of a black or white one, by persistent chains.

    `python jobs/train.py rbm`. -22.5 nats a held-out digit (annealed importance sampling, log Z to 0.08), pseudo-likelihood -20.3; 16
    CPU-seconds. A free energy tells a digit from pixels of as many digits 97 times of 100.
    """
    optim = OptimConfig(name="sgd", learning_rate=0.1, momentum=0.5, weight_decay=1e-4, schedule="linear")
    task, train = RBMConfig(chains=500, initial_weight=0.1), TrainConfig(steps=3000, global_batch=100, optim=optim)
    return Recipe(stages=(Stage(task=task, data=DataConfig(train="digits"), train=train),), smoke=smoke(RBMConfig(hidden=16, chains=5), "digits"))
