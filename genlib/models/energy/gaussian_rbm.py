"""Restricted Boltzmann machines of numbers: visible units with Gaussian noise (Welling, Rosen-Zvi & Hinton 2004).

Given the hidden units, samples are normal around a mean that each hidden unit pulls its own way; over all hidden states the RBM is a
mixture of 2**H Gaussians that share H weight vectors. It learns by the rules of any RBM. Without a pseudo-likelihood over two values,
score matching (Hyvärinen 2005, JMLR 6) says how well samples fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genlib.config import DataConfig, OptimConfig, TrainConfig, tunable
from genlib.data.transforms.vectors import VectorShape
from genlib.functional import gibbs
from genlib.functional.gibbs import Draw, RBMParams
from genlib.models.energy.base.contrastive import ContrastiveTask
from genlib.models.energy.base.rbm_base import RBMBaseConfig
from genlib.models.energy.rbm import smoke
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import DataSpec

_LEAST_SPREAD = 0.25
"""Least standard deviation of a number over samples, as a share of the mean over numbers; what varies less is scaled as if it did as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianRBMConfig(RBMBaseConfig):
    """Visible units of any number, with Gaussian noise (Welling, Rosen-Zvi & Hinton 2004)."""

    noise: float = tunable(0.5, low=0.1, high=1.0, log=True, above=0)
    """Standard deviation of a visible unit given the hidden ones, as a share of that of the data."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> GaussianRBM:
        return GaussianRBM(self, VectorShape.of(data, self.image_size))


class GaussianRBM(ContrastiveTask):
    """The task, for Gaussian units: they hold samples around their mean, in units of the noise."""

    config: GaussianRBMConfig
    units = gibbs.GaussianUnits()
    shift: Tensor
    scale: Tensor

    def __init__(self, config: GaussianRBMConfig, shape: VectorShape) -> None:
        super().__init__(config, shape, shape.size)
        self.register_buffer("shift", torch.zeros(shape.size))
        self.register_buffer("scale", torch.ones(shape.size))

    def to_visible(self, x: Tensor) -> Tensor:
        return (x - self.shift) * self.scale

    def from_visible(self, v: Tensor, draw: Draw | None = None) -> Tensor:
        return v / self.scale + self.shift

    def shown(self, mean: Tensor, draw: Draw) -> Tensor:
        return mean if self.shape.is_image else self.units.sample(mean, draw, "shown")

    @property
    def log_density(self) -> float:
        return self.scale.double().log().sum().item()

    def noise_of(self, noise: float) -> Tensor:
        return noise * self.scale

    def drawn(self, v: Tensor, draw: Draw) -> Tensor:
        return v

    def misfit(self, rbm: RBMParams, v: Tensor, draw: Draw, count: int, given: Tensor | None = None) -> Tensor:
        """The objective of score matching, over all units, in units of the data's spread, so that RBMs of other noise compare."""
        return gibbs.score_matching(rbm, v) / self.config.noise**2

    def measure(self, x: Tensor) -> None:
        """Sets `shift` and `scale` by samples (N, D). What hardly varies, such as a picture's corners, is not blown up."""
        spread = x.std(0, correction=0)
        self.shift.copy_(x.mean(0))
        self.scale.copy_(1 / (self.config.noise * spread.clamp(min=max(_LEAST_SPREAD * spread.mean().item(), 1e-6))))


def rbm_gaussian() -> Recipe:
    """Points of the plane around eight places on a circle.

    `python jobs/train.py rbm_gaussian`. -0.50 nats a held-out point (annealed importance sampling, log Z to 0.12), where the places
    themselves give -0.31 and one normal distribution -3.5; samples are at all eight. 23 CPU-seconds.
    """
    optim = OptimConfig(name="sgd", learning_rate=0.003, momentum=0.5, schedule="linear")
    task, train = GaussianRBMConfig(hidden=128, noise=0.1, chains=500), TrainConfig(steps=5000, global_batch=100, optim=optim)
    return Recipe(stages=(Stage(task=task, data=DataConfig(train="rings2d"), train=train),), smoke=smoke(GaussianRBMConfig(hidden=16), "rings2d"))
