"""Autoencoders (Rumelhart et al. 1986, doi:10.1038/323533a0; Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647).

An encoder sums a sample up in a code, a decoder draws the sample from the code, and the loss is how far it is off. What makes a code
worth having is what keeps the two from copying: a code smaller than the sample, or noise on what the encoder sees, to be undone
(Vincent et al. 2010, JMLR 11). With linear maps alone the code is that of principal component analysis (Baldi & Hornik 1989).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genlib import random
from genlib.config import DataConfig, OptimConfig, TrainConfig, limited
from genlib.functional.perceptual import psnr_db
from genlib.models.autoencoders.base.coding import CodingConfig, CodingTask
from genlib.ports import Sample, Scores
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig(CodingConfig):
    """Undercomplete, or overcomplete where `latent_dim` is more than a sample has numbers; linear without `widths`."""

    noise: float = limited(0.0, at_least=0)
    """Standard deviation of Gaussian noise on what the encoder sees; the decoder is to draw the sample without it."""
    dropout: float = limited(0.0, at_least=0, below=1)
    """Share of the numbers that the encoder sees as 0; the decoder is to draw them all."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Autoencoder:
        return Autoencoder(self, data)

    @property
    def denoises(self) -> bool:
        """Whether the encoder sees less than the sample."""
        return bool(self.noise or self.dropout)


class Autoencoder(CodingTask):
    """The task: samples in, codes between, samples out."""

    companions = replace(
        CodingTask.companions,
        assess="genlib.models.autoencoders.autoencoder_assess:assess",
        sheet="genlib.models.autoencoders.autoencoder_assess:sheet",
    )
    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig, data: DataSpec) -> None:
        super().__init__(config, data)
        self.net = config.coder(self.shape)

    def codes(self, x: Tensor) -> Tensor:
        return self.net.encoder(x).float()

    def samples(self, codes: Tensor) -> Tensor:
        x = self.net.decoder(codes).float()
        return x.clamp(0, 1) if self.shape.is_image else x

    def corrupted(self, x: Tensor, position: Tensor, seed: int) -> Tensor:
        """What the encoder sees of samples x (B, D): with noise, and with some numbers at 0, both keyed by position (B,)."""
        if self.config.noise:
            x = x + self.config.noise * random.normal(position, tuple(x.shape[1:]), seed=seed, stream="corruption noise")
        if self.config.dropout:
            x = x * (random.uniform(position, tuple(x.shape[1:]), seed=seed, stream="corruption dropout") >= self.config.dropout)
        return x

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        made = self.net(self.corrupted(batch["x"], batch["position"], step.seed))
        return squared_error(made.float(), batch["x"]), {}

    def evaluate(self, batch: Batch) -> Metrics:
        """`loss`, the mean squared error; of images `psnr_db` too, and where noise is to be undone `gain_db`, by how much that rose."""
        x = batch["x"]
        seen = self.corrupted(x, batch["position"], 0)
        made = self.samples(self.codes(seen))
        values = {"loss": squared_error(made, x)}
        if self.shape.is_image:
            values["psnr_db"] = psnr_db(made, x)
        if self.config.denoises:
            values["gain_db"] = psnr_db(made, x) - psnr_db(seen.clamp(0, 1) if self.shape.is_image else seen, x)
        return values

    @action
    @torch.no_grad()
    def anomaly(self, *, image: Sample) -> Scores:
        """How badly each image (B, C, H, W), or vector (B, D), is reconstructed, (B,): mean squared error as a share of its mean square.

        The more unlike the training samples, the more.
        """
        x = self.flat(image)
        made = torch.cat([self.samples(self.codes(part)) for part in x.split(self.config.code_batch)])
        return squared_error(made, x) / x.square().mean(1).clamp(min=1e-12)


def squared_error(made: Tensor, x: Tensor) -> Tensor:
    """Mean over the numbers of samples (B, D) -> (B,)."""
    return (made - x).square().mean(1)


def _recipe(task: AutoencoderConfig, data: DataConfig, train: TrainConfig, small: AutoencoderConfig) -> Recipe:
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=3e-3))
    return Recipe(stages=(Stage(task=task, data=data, train=train),), smoke=(Stage(task=small, data=DataConfig(train="digits"), train=short),))


def _train(steps: int, learning_rate: float, batch: int = 128) -> TrainConfig:
    return TrainConfig(steps=steps, global_batch=batch, optim=OptimConfig(learning_rate=learning_rate, schedule="cosine", warmup_steps=50))


def autoencoder() -> Recipe:
    """Clothing of 28 x 28 pixels in 32 numbers, and back.

    `python jobs/train.py autoencoder`. Held-out clothing comes back at 20.6 dB; of a sample's ten neighbours in code 67% are of its class; 76
    CPU-seconds.
    """
    return _recipe(
        AutoencoderConfig(latent_dim=32), DataConfig(train="fashion_mnist"), _train(4000, 1e-3), AutoencoderConfig(latent_dim=16, widths=(64, 32))
    )


def autoencoder_denoising() -> Recipe:
    """Coloured shapes of 16 x 16 pixels out of noise, by convolutions.

    `python jobs/train.py autoencoder_denoising`. Held-out shapes with noise of 0.3 come back at 26.0 dB, 12.7 dB nearer than what the encoder sees;
    70 CPU-seconds.
    """
    task = AutoencoderConfig(latent_dim=128, network="convolutional", widths=(32, 64), noise=0.3)
    small = AutoencoderConfig(latent_dim=32, network="convolutional", widths=(8, 16), noise=0.3)
    return _recipe(task, DataConfig(train="shapes", image_size=16), _train(2000, 2e-3), small)


def pca() -> Recipe:
    """Handwritten digits in 10 numbers by linear maps with shared weights, which is principal component analysis learnt by gradients.

    `python jobs/train.py pca`. Held-out digits come back at 17.8 dB, a mean squared error of 0.01805, which is that of the exact components too;
    of a sample's ten neighbours in code 84% are of its class; 13 CPU-seconds, of which 4 are training.
    """
    task = AutoencoderConfig(latent_dim=10, network="tied", widths=())
    # Adam moves each weight by itself and leaves the last components mixed; momentum turns the whole subspace
    optim = OptimConfig(name="sgd", learning_rate=2.0, momentum=0.95, schedule="cosine", warmup_steps=50)
    train = TrainConfig(steps=2000, global_batch=256, optim=optim)
    return _recipe(task, DataConfig(train="digits"), train, task)
