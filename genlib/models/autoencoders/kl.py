"""Image autoencoder with Gaussian latents, as latent diffusion uses it (Rombach et al. 2022, arXiv:2112.10752).

An encoder names a Gaussian for every latent cell, a decoder draws the image from a sample of it. The price of a nat of divergence
from the standard normal is so low that latents stay sharp; it only keeps them from running away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from genlib import random
from genlib.config import DataConfig, OptimConfig, TrainConfig, tunable
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.models.autoencoders.base.image_config import Discriminator, ImageAutoencoderConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import DataSpec, Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderKLConfig(ImageAutoencoderConfig):
    """diffusers' AutoencoderKL."""

    kl_weight: float = tunable(1e-6, low=1e-7, high=1e-2, log=True, at_least=0)
    """Price of a nat, where a pixel's channel that is wrong by 1 costs 1."""
    quant_conv: bool = True
    """A 1 x 1 convolution on either side of the latents; SD3's autoencoder has none."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> AutoencoderKLTask:
        return AutoencoderKLTask(self, data, upstream)

    def network(self, channels: int) -> nn.Module:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(**self.network_options(channels), use_quant_conv=self.quant_conv, use_post_quant_conv=self.quant_conv)


class AutoencoderKLTask(ImageAutoencoder):
    """The task: images in, Gaussians in between, images out."""

    config: AutoencoderKLConfig

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.model.encode(image).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def decode_latent(self, latent: Tensor) -> Tensor:
        return self.model.decode(latent).sample

    def reconstruction(self, image: Tensor, position: Tensor, seed: int) -> tuple[Tensor, Tensor, Metrics]:
        mean, std = self.encode_image(image)
        latent = mean + std * random.normal(position, tuple(mean.shape[1:]), seed=seed, stream="posterior")
        nats = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1)
        return self.decode_latent(latent), self.config.kl_weight * nats / image[0].numel(), {"nats": nats}


def _train(steps: int, batch: int, learning_rate: float, **options) -> TrainConfig:
    optim = OptimConfig(learning_rate=learning_rate, beta2=0.99, schedule="cosine", warmup_steps=min(50, steps // 10), clip_norm=1.0)
    return TrainConfig(steps=steps, global_batch=batch, optim=optim, **options)


def smoke(task: ImageAutoencoderConfig) -> tuple[Stage, ...]:
    """A recipe's smallest form, around such a task."""
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=2e-3))
    return (Stage(task=task, data=DataConfig(train="shapes", image_size=16), train=train),)


def autoencoder_kl() -> Recipe:
    """Icons of 32 pixels a side to 8 x 8 latents of 4 numbers, and back.

    `python jobs/train.py autoencoder_kl`. 27.6 dB on Font Awesome, which it never saw (one process, 274 s beside other work).
    """
    task = AutoencoderKLConfig(block_out_channels=(16, 32, 64), layers_per_block=1, norm_groups=8, attention=False)
    train = _train(800, 64, 2e-3, precision="bf16", ema_halflife_samples=4000)
    small = AutoencoderKLConfig(block_out_channels=(8, 16), layers_per_block=1, norm_groups=4)
    return Recipe(stages=(Stage(task=task, data=DataConfig(train="icons", image_size=32), train=train),), smoke=smoke(small))


def autoencoder_kl_sdxl() -> Recipe:
    """The autoencoder of Stable Diffusion XL, 83,653,863 parameters (Podell et al. 2023, arXiv:2307.01952), with a patch discriminator.

    `python jobs/train.py autoencoder_kl_sdxl --workers 8 --data.train 'shards/{00000..09999}.tar' --task.perceptual-file vgg16.safetensors`
    """
    discriminator = Discriminator(weight=0.5, start_steps=50_001)
    task = AutoencoderKLConfig(discriminator=discriminator)
    train = TrainConfig(steps=500_000, global_batch=256, precision="bf16", optim=OptimConfig(learning_rate=4.5e-6, beta1=0.5, beta2=0.9),
                        ema_halflife_samples=177_000)  # fmt: skip
    small = AutoencoderKLConfig(
        block_out_channels=(8, 16), layers_per_block=1, norm_groups=4, discriminator=Discriminator(weight=0.5, start_steps=4, width=8, layers=1)
    )
    return Recipe(stages=(Stage(task=task, data=DataConfig(image_size=256), train=train),), smoke=smoke(small))
