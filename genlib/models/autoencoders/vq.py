"""Image autoencoder with a codebook (van den Oord et al. 2017, arXiv:1711.00937); with a discriminator, VQGAN (Esser et al. 2021, arXiv:2012.09841).

Every latent cell is replaced by the nearest of a table of codes; the decoder's gradient passes to the encoder as if nothing had
been replaced. Codes move to the latents, and latents commit to their codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from genlib.config import DataConfig, OptimConfig, TrainConfig, limited, tunable
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.models.autoencoders.base.image_config import Discriminator, ImageAutoencoderConfig
from genlib.ports import Codes, Image, Sizes
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSource, DataSpec, Metrics

PREPARED_SAMPLES = 256
"""Training images whose latents the codes start from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderVQConfig(ImageAutoencoderConfig):
    """diffusers' VQModel."""

    codes: int = limited(8192, at_least=2)
    """Entries of the codebook."""
    commitment: float = tunable(0.25, low=0.1, high=2.0, log=True, at_least=0)
    """Weight of the pull of latents to their codes, beside 1 for codes to latents."""
    codebook_weight: float = limited(1.0, above=0)
    """Weight of both pulls in the loss."""
    centred: bool = False

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> AutoencoderVQTask:
        return AutoencoderVQTask(self, data, upstream)

    def network(self, channels: int) -> nn.Module:
        from diffusers.models.autoencoders.vq_model import VQModel

        return VQModel(**self.network_options(channels), num_vq_embeddings=self.codes)


class AutoencoderVQTask(ImageAutoencoder):
    """The task: images in, codes in between, images out."""

    companions = replace(ImageAutoencoder.companions, assess="genlib.models.autoencoders.vq_assess:assess")
    config: AutoencoderVQConfig

    def prepare(self, source: DataSource) -> None:
        """Codes start at latents of the untrained encoder, drawn at random, and so all of them are near some."""
        super().prepare(source)
        size = self.chunk_samples
        batches = source.batches("train", size, transform=self.transform(train=False))
        with torch.no_grad():
            images = [batch["image"] for _, batch in zip(range(PREPARED_SAMPLES // size), batches, strict=False)]
            cells = torch.cat([self.encode_image(2 * image - 1)[0].movedim(1, -1).flatten(0, -2) for image in images])
            rows = torch.randint(len(cells), (self.config.codes,))
            self.model.quantize.embedding.weight.copy_(cells[rows] + 1e-3 * cells.std() * torch.randn(self.config.codes, cells.shape[1]))

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As every image autoencoder's; the latents before they are replaced by codes, which `decode_latent` does, and a deviation of 0."""
        latent = self.model.encode(image).latents.float()
        return latent, torch.zeros_like(latent)

    def decode_latent(self, latent: Tensor) -> Tensor:
        return self.model.decode(self.quantised(latent.float())[0], force_not_quantize=True).sample

    def quantised(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, c, h, w) -> the nearest codes (B, c, h, w), and their numbers (B, h, w) int64."""
        # the table as the output of its module: that is where ZeRO-3 gathers it
        table = self.model.quantize.embedding(torch.arange(self.config.codes, device=latent.device)).float()
        with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
            numbers = torch.cdist(latent.movedim(1, -1).flatten(0, -2), table).argmin(1).view(latent.shape[0], *latent.shape[2:])
        return table[numbers].movedim(-1, 1), numbers

    def reconstruction(self, image: Tensor, position: Tensor, seed: int) -> tuple[Tensor, Tensor, Metrics]:
        latent, _ = self.encode_image(image)
        code, numbers = self.quantised(latent)
        pulls = (code - latent.detach()).square() + self.config.commitment * (latent - code.detach()).square()
        through = latent + (code - latent).detach()
        made = self.model.decode(through, force_not_quantize=True).sample
        metrics = {"commitment": (latent - code).square().flatten(1).mean(1), "perplexity": perplexity(numbers, self.config.codes)}
        return made, self.config.codebook_weight * pulls.flatten(1).mean(1), metrics

    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), codebook=self.config.codes, code_grid=self.image_size // self.factor)

    @action
    @torch.no_grad()
    def encode_codes(self, *, image: Image) -> Codes:
        """Numbers (B, H / factor, W / factor) int64 of the codes of images (B, C, H, W) in [0, 1]."""
        return self.quantised(self.encode_image(2 * image.to(self.device) - 1)[0])[1]

    @action
    @torch.no_grad()
    def decode_codes(self, *, codes: Codes) -> Image:
        """Images (B, C, h * factor, w * factor) in [0, 1] of codes (B, h, w) int64."""
        table = self.model.quantize.embedding(codes.to(self.device)).movedim(-1, 1)
        return (self.model.decode(table, force_not_quantize=True).sample.float() / 2 + 0.5).clamp(0, 1)

    def evaluate(self, batch: Batch) -> Metrics:
        return super().evaluate(batch) | {"perplexity": perplexity(self.encode_codes(image=batch["image"]), self.config.codes)}


def usage(numbers: Tensor, codes: int) -> Tensor:
    """How often each of so many codes occurs in numbers (...) -> (codes,) float32."""
    flat = numbers.flatten()
    return torch.zeros(codes, device=flat.device).index_add_(0, flat, torch.ones(flat.numel(), device=flat.device))


def evenness(counts: Tensor) -> Tensor:
    """Perplexity of the distribution with such counts (K,): K where all are equal, 1 where one is all; a scalar."""
    share = counts / counts.sum()
    return torch.special.entr(share).sum().exp()


def perplexity(numbers: Tensor, codes: int) -> Tensor:
    """Perplexity of the codes in use among numbers (...), a scalar."""
    return evenness(usage(numbers, codes))


def autoencoder_vq() -> Recipe:
    """VQGAN on icons of 32 pixels a side: 8 x 8 codes out of 512, with a patch discriminator after a third of the run.

    `python jobs/train.py autoencoder_vq`. Held-out icons come back at 24.0 dB; 99% of the codes are used, perplexity 244
    (one process). The discriminator learns little here: it tells data from reconstructions no better after the run than before.
    """
    discriminator = Discriminator(weight=0.1, start_steps=400, width=16, layers=2)
    task = AutoencoderVQConfig(
        block_out_channels=(32, 64, 64), layers_per_block=1, norm_groups=8, attention=False, codes=512, discriminator=discriminator
    )
    optim = OptimConfig(learning_rate=1e-3, beta1=0.5, beta2=0.9, schedule="cosine", warmup_steps=50, clip_norm=1.0)
    train = TrainConfig(steps=1200, global_batch=64, precision="bf16", optim=optim, ema_halflife_samples=4000)
    small = AutoencoderVQConfig(
        block_out_channels=(8, 16), layers_per_block=1, norm_groups=4, codes=32,
        discriminator=Discriminator(weight=0.1, start_steps=4, width=8, layers=1),
    )  # fmt: skip
    smoke = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=2e-3))
    return Recipe(
        stages=(Stage(task=task, data=DataConfig(train="icons", image_size=32), train=train),),
        smoke=(Stage(task=small, data=DataConfig(train="shapes", image_size=16), train=smoke),),
    )
