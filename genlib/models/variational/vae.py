"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114), beta-VAE (Higgins et al. 2017) and importance-weighted bound (Burda et al. 2016).

An encoder names a Gaussian over codes, a decoder a distribution over samples; the loss is the negative evidence lower bound on the
log-likelihood of the data: distortion + beta * rate, both in nats. The rate is what the code costs over the standard normal, so that
codes drawn from that give samples too. beta = 1 is the bound; above 1 the code must earn every nat, and tends to say one thing a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from genlib import random
from genlib.config import DataConfig, OptimConfig, TrainConfig, limited, tunable
from genlib.data.transforms.vectors import VectorShape
from genlib.functional.divergence import gaussian_kl, gaussian_log_density, importance_weighted_bound, reparameterise
from genlib.models.autoencoders.base.coding import CodingConfig, CodingTask
from genlib.models.variational.base.likelihood import LIKELIHOODS
from genlib.plurals import counted
from genlib.ports import Amounts, Direction, Sample, SampleFrames, Seeds, Values
from genlib.random import seeded_normal
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig(CodingConfig):
    """The networks, what they say of a sample, and the price of the code."""

    network: Literal["dense", "convolutional"] = "dense"
    """Kind of the layers; convolutional ones need images."""
    beta: float = tunable(1.0, low=0.1, high=20.0, log=True, at_least=0)
    """Price of one nat of rate; above 1 trades sharpness for disentangled codes."""
    rate_warmup: float = limited(0.0, at_least=0, at_most=1)
    """Share of the run over which the price rises from 0, so that codes come to use before they cost (Bowman et al. 2016, arXiv:1511.06349)."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Distribution of a number of the sample: bernoulli of values in [0, 1], gaussian of any."""
    std: float = limited(0.0, at_least=0)
    """Standard deviation of the gaussian likelihood; 0 learns one."""
    importance_samples: int = limited(1, at_least=1)
    """Codes a sample that training draws; more than 1 trains the importance-weighted bound, which knows no beta."""
    factors: tuple[str, ...] = ()
    """Names in the samples' `.json` of what varies in the data; the final scores then say how well single numbers of the code tell of them."""

    def validate(self) -> None:
        CodingConfig.validate(self)
        if self.std and self.likelihood != "gaussian":
            raise ValueError(f"task.std {self.std:g} is of the gaussian likelihood, but task.likelihood is {self.likelihood}; change one of them")
        if self.importance_samples > 1 and (self.beta != 1 or self.rate_warmup):
            count = self.importance_samples
            raise ValueError(f"task.importance_samples {count} trains a bound in which the rate has no price; leave beta 1 and rate_warmup 0")

    @property
    def encoder_numbers(self) -> int:
        return 2 * self.latent_dim

    def check_data(self, data: DataSpec) -> None:
        CodingConfig.check_data(self, data)
        if self.likelihood == "bernoulli" and not VectorShape.of(data).is_image:
            raise ValueError("task.likelihood bernoulli is of values in [0, 1], but the samples are vectors of any numbers; give gaussian")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> VAE:
        self.check_data(data)
        return VAE(self, data)


class VAE(CodingTask):
    """The task: samples in, Gaussians over codes between, samples out; the code of a sample is its Gaussian's mean."""

    objective = ("negative_elbo_nats", "min")
    companions = replace(
        CodingTask.companions,
        assess="genlib.models.variational.vae_assess:assess",
        sheet="genlib.models.variational.vae_assess:sheet",
    )
    config: VAEConfig

    def __init__(self, config: VAEConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.net = config.coder(self.shape)
        self.net.likelihood = LIKELIHOODS[config.likelihood](config.std)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code of samples (B, D), (B, latent_dim) each."""
        mean, logvar = self.net.encoder(x).float().chunk(2, 1)
        return mean, logvar

    def codes(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def samples(self, codes: Tensor) -> Tensor:
        mean = self.net.likelihood.mean(self.net.decoder(codes).float())
        return mean.clamp(0, 1) if self.shape.is_image else mean

    def distortion_and_rate(self, x: Tensor, position: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Nats (B,) of samples x (B, D): -log p(x | z) for one z drawn by position, and the divergence of q(z | x) from the prior."""
        mean, logvar = self.posterior(x)
        z = reparameterise(mean, logvar, random.normal(position, (self.config.latent_dim,), seed=seed, stream="posterior"))
        return -self.net.likelihood.log_prob(self.net.decoder(z).float(), x), gaussian_kl(mean, logvar).sum(1)

    def log_likelihood_bound(self, x: Tensor, position: Tensor, seed: int, samples: int) -> Tensor:
        """Importance-weighted bound (B,), nats, on log p(x) of x (B, D) from so many codes each; it rises with their number."""
        mean, logvar = (value[:, None] for value in self.posterior(x))
        z = reparameterise(mean, logvar, random.normal(position, (samples, self.config.latent_dim), seed=seed, stream="posterior"))
        log_prior = gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z)).sum(2)
        log_posterior = gaussian_log_density(z, mean, logvar).sum(2)
        numbers = self.net.decoder(z.flatten(0, 1)).float()
        log_prob = self.net.likelihood.log_prob(numbers, x.repeat_interleave(samples, 0)).view(-1, samples)
        return importance_weighted_bound((log_prob + log_prior - log_posterior).T)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        if self.config.importance_samples > 1:
            return -self.log_likelihood_bound(batch["x"], batch["position"], step.seed, self.config.importance_samples), {}
        distortion, rate = self.distortion_and_rate(batch["x"], batch["position"], step.seed)
        beta = self.config.beta * min(1.0, step.progress / self.config.rate_warmup if self.config.rate_warmup else 1.0)
        return distortion + beta * rate, {"distortion_nats": distortion, "rate_nats": rate}

    def evaluate(self, batch: Batch) -> Metrics:
        """The bound whatever beta: `negative_elbo_nats`, the sum of `distortion_nats` and `rate_nats`."""
        distortion, rate = self.distortion_and_rate(batch["x"], batch["position"], 0)
        return {"negative_elbo_nats": distortion + rate, "distortion_nats": distortion, "rate_nats": rate}

    @action
    def generate(self, *, seed: Seeds) -> Sample:
        """Images (len(seed), C, H, W) in [0, 1], or vectors, each of a code drawn from the standard normal by its own seed."""
        return self.decode(code=seeded_normal(seed, (self.config.latent_dim,), self.device))

    @action(joint=True)
    def attribute_direction(self, *, image: Sample, value: Values) -> Direction:
        """Change of the code (latent_dim,) that goes with one more of an attribute of which images (B, C, H, W) have so much, one value each.

        Of values 0 and 1 it is the mean code of those that have the attribute less that of the others.
        """
        amount = torch.tensor(value, dtype=torch.float32, device=self.device)
        if len(value) != len(image) or not amount.std(unbiased=False) > 0:
            given = f"{counted(len(value), 'value')} for {counted(len(image), 'sample')}"
            raise ValueError(f"{given}, {len(set(value))} of them different: give one each, not all the same")
        centred = amount - amount.mean()
        return centred @ self.embed(image=image) / centred.square().sum()

    @action
    def move(self, *, image: Sample, direction: Direction, amount: Amounts) -> SampleFrames:
        """Images (B, len(amount), C, H, W), or vectors: each one given, its code moved by every amount of a direction (latent_dim,)."""
        if direction.shape != (self.config.latent_dim,):
            raise ValueError(f"a direction of shape {tuple(direction.shape)} is not ({self.config.latent_dim},), the model's; give such a one")
        steps = torch.tensor(amount, dtype=torch.float32, device=self.device)[:, None] * direction.to(self.device)
        return self.decode(code=(self.embed(image=image)[:, None] + steps).flatten(0, 1)).unflatten(0, (len(image), len(amount)))

    @action(joint=True)
    def combine(self, *, image: Sample, weight: Values) -> Sample:
        """The image (1, C, H, W) whose code is the weighted sum of those of images (B, C, H, W): weights 1, -1, 1 say a - b + c."""
        if len(weight) != len(image):
            raise ValueError(f"weight has {counted(len(weight), 'number')} for {counted(len(image), 'sample')}; give one each")
        return self.decode(code=torch.tensor([weight], dtype=torch.float32, device=self.device) @ self.embed(image=image))


def _recipe(task: VAEConfig, data: DataConfig, train: TrainConfig, small: VAEConfig) -> Recipe:
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=1e-2))
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=(Stage(task=small, data=DataConfig(train="digits"), train=short),))


def vae() -> Recipe:
    """Clothing of 28 x 28 pixels: codes to draw it from, and a bound on its likelihood.

    `python jobs/train.py vae`. Negative bound of held-out clothing 241.1 nats, of which the code costs 12.6, in seven of its 32 numbers; the
    importance-weighted bound of 64 codes 239.1; 83 CPU-seconds.
    """
    optim = OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=100)
    train = TrainConfig(steps=4000, global_batch=128, optim=optim)
    return _recipe(VAEConfig(latent_dim=32, rate_warmup=0.2), DataConfig(train="fashion_mnist"), train, VAEConfig(latent_dim=8, widths=(64, 32)))


def beta_vae() -> Recipe:
    """Coloured shapes of 16 x 16 pixels, whose place, size and colour come apart, in part, in the code.

    `python jobs/train.py beta_vae`. Mutual information gap 0.11; the code costs 8.2 nats of a negative bound of 80.8, all in five numbers, which
    tell of place, size and colour, hardly of kind; 76 CPU-seconds.
    """
    factors = ("kind", "color", "x", "y", "size")
    task = VAEConfig(latent_dim=6, beta=2.0, network="convolutional", widths=(32, 64), factors=factors)
    small = VAEConfig(latent_dim=4, beta=4.0, network="convolutional", widths=(8, 16), likelihood="gaussian")
    train = TrainConfig(steps=7000, global_batch=32, optim=OptimConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=100))
    return _recipe(task, DataConfig(train="shapes", image_size=16), train, small)
