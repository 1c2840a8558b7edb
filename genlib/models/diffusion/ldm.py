"""Latent diffusion on text (Rombach et al. 2022, arXiv:2112.10752).

A frozen autoencoder makes latents of images, a frozen text encoder makes hidden states of captions; a U-Net learns to take noise out
of the latents while its attention layers read the text: queries from the latents, keys and values from the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genlib import random
from genlib.config import DataConfig, OptimConfig, TrainConfig, tunable
from genlib.functional import diffusion, grids
from genlib.models.autoencoders.kl import AutoencoderKLConfig
from genlib.models.diffusion.base import latent_tiny as tiny
from genlib.models.diffusion.base.latent import Condition, LatentConfig
from genlib.models.diffusion.base.latent_editing import LatentEditor
from genlib.models.diffusion.base.latent_unet import LatentUNetConfig
from genlib.models.diffusion.base.process import DiscreteConfig, denoising_loss
from genlib.models.representation.base.clip_towers import TextTransformer
from genlib.models.representation.text_encoder import TextEncoderConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentDiffusionConfig(LatentConfig):
    """The denoiser, its process, and what samples it is shown with."""

    unet: LatentUNetConfig = field(default_factory=LatentUNetConfig)
    """The network."""
    process: DiscreteConfig = field(default_factory=lambda: DiscreteConfig(beta_schedule="scaled_linear"))
    """Noise levels and loss."""
    caption_dropout: float = tunable(0.1, low=0.02, high=0.3, at_least=0, below=1)
    """Share of samples that are shown without their caption."""
    scale_text: bool = False
    """Scale each text encoder's hidden states to a standard deviation of one over captions of the training set. Those of small encoders
    are far from it, and the network then learns to read them slowly. An export has the scale in the network's own weights."""

    @property
    def cell(self) -> int:
        return self.unet.factor

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> LatentDiffusion:
        self.check_inputs(data, upstream)
        return LatentDiffusion(self, data, upstream)


class LatentDiffusion(LatentEditor):
    """The task: captioned images in, a text-conditional denoiser of latents out."""

    companions = replace(
        LatentEditor.companions,
        export="genlib.models.diffusion.latent_export:export_stable_diffusion",
        load_pretrained="genlib.models.diffusion.latent_export:load_unet",
    )
    config: LatentDiffusionConfig  # type: ignore[override]
    text_scale: Tensor
    """What hidden states (..., D) are multiplied by."""

    def __init__(self, config: LatentDiffusionConfig, data: DataSpec, upstream: Mapping[str, Task]) -> None:
        super().__init__(config, data, upstream)
        self.schedule = config.process.schedule()
        self.register_buffer("text_scale", torch.ones(sum(tower.width for tower in self.towers)))

    def prepare(self, source: DataSource) -> None:
        super().prepare(source)
        if self.config.scale_text:
            texts = list(source.captions("train", _MEASURED))
            if not texts:
                raise ValueError("task.scale_text measures captions of the training set, which has none; set it to False")
            spread = [
                part.std().expand(part.shape[-1]) for part in self.encode_prompts(texts)["text"].float().split([t.width for t in self.towers], -1)
            ]
            self.text_scale.copy_(1 / torch.cat(spread))

    def network(self, channels: int, side: int) -> Any:
        return self.config.unet.build(channels, self.towers[0].width, side)

    def encode_texts(self, *tokens: Tensor) -> Batch:
        """Tokens [(B, N)] -> `text` (B, N, D): the last hidden states, normalised."""
        return {"text": self.towers[0].states(tokens[0])[1]}

    def condition(self, encoded: Batch) -> Condition:
        return (encoded["text"] * self.text_scale.to(encoded["text"].device),)

    def unconditional(self, condition: Condition) -> Condition:
        """No text is an empty caption, as in the published pipeline."""
        (text,) = condition
        (nothing,) = self.condition(self.encode_nothing())
        return (nothing.to(text.dtype).expand_as(text),)

    def train_condition(self, batch: Batch, step: Step) -> Condition:
        left_out = random.uniform(batch["position"], seed=step.seed, stream="caption dropout") < self.config.caption_dropout
        condition = self.condition(batch)
        return tuple(
            torch.where(left_out.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in zip(condition, self.unconditional(condition), strict=True)
        )

    def denoising_loss(self, batch: Batch, condition: Condition, step: Step) -> tuple[Tensor, Metrics]:
        """The network's weighted error (B,) at random times of the process."""
        x0 = self.latents(batch, step.seed)
        return denoising_loss(lambda x, time: self.net(x, time, *condition), x0, batch, step, self.config.process, self.schedule, times=self.times)

    @property
    def times(self) -> tuple[float, float]:
        """The share of the noise levels that it learns, 0 being the least noise."""
        return 0.0, 1.0

    def to_x0(self, prediction: Tensor, x: Tensor, time: Tensor) -> Tensor:
        return diffusion.to_x0(self.config.process.prediction, prediction, x, *self.schedule.at(time, x))

    @property
    def max_steps(self) -> int:
        return len(self.schedule)

    def grid(self, steps: int, *, clean: bool = True) -> grids.Grid:
        """From the last noise level on."""
        return grids.trailing(self.schedule, steps, end=None if clean else 0)


_MEASURED = 4096
"""Captions by which hidden states are scaled."""
_UPSTREAM = {"autoencoder": "autoencoder", "text": "text"}


def _smoke() -> tuple[Stage, ...]:
    unet = LatentUNetConfig(block_out_channels=(16, 32), transformer_layers=(0, 1), layers_per_block=1, head_dim=8, norm_groups=4)
    task = LatentDiffusionConfig(unet=unet, prompts=("a red circle", "a blue square"))
    return tiny.smoke_autoencoder(), tiny.smoke_text("text"), tiny.smoke_stage("denoiser", task, needs=_UPSTREAM)


def ldm_tiny() -> Recipe:
    """Latent diffusion on icons with one text encoder: autoencoder, text encoder and denoiser, all from nothing.

    `python jobs/train.py ldm_tiny`. Held-out loss 0.305 (of v, over all levels); of its 32 prompts a person names heart, home, lock, bell, cloud,
    camera, phone, umbrella, music, tree, car, clock and "bell off" at first sight (denoiser alone: one process, 1,278 s beside other work).
    """
    unet = LatentUNetConfig(block_out_channels=(96, 96), transformer_layers=(0, 1), layers_per_block=1, head_dim=32)
    process = DiscreteConfig(beta_schedule="cosine", prediction="v", zero_terminal_snr=True, time_spread=1.0)
    task = LatentDiffusionConfig(unet=unet, process=process, prompts=tiny.PROMPTS, guidance_scale=4.0)
    train = tiny.training(1200, 128, 2e-3, ema_halflife_samples=15_000)
    stages = (
        tiny.autoencoder_stage(),
        tiny.text_stage("text", 256, 600),
        Stage(name="denoiser", task=task, data=tiny.ICONS, train=train, needs=_UPSTREAM),
    )
    return Recipe(stages=stages, smoke=_smoke())


def ldm_sd2() -> Recipe:
    """Stable Diffusion 2 as published, 865,910,724 parameters in the U-Net, over WebDataset shards; the rest from local folders.

    Its text encoder is OpenCLIP's ViT-H/14 without the last of 24 blocks, so that what our class takes, the last hidden states with the
    final normalisation, are the published ones.

    `ray job submit --working-dir . -- python jobs/train.py ldm_sd2 --workers 64 --denoiser.data.train 'shards/{00000..09999}.tar'
    --autoencoder.train.start_from SD2/vae --text.train.start_from SD2/text_encoder`
    """
    taken, squares = TrainConfig(steps=0), DataConfig(image_size=768)
    text = TextEncoderConfig(text=TextTransformer(width=1024, layers=23, heads=16), activation="gelu")
    unet = LatentUNetConfig(block_out_channels=(320, 640, 1280, 1280), transformer_layers=(1, 1, 1, 0), gradient_checkpointing=True)
    task = LatentDiffusionConfig(image_size=768, unet=unet, process=DiscreteConfig(beta_schedule="scaled_linear", prediction="v"))
    optim = OptimConfig(learning_rate=1e-4, weight_decay=0.01, warmup_steps=10_000, clip_norm=1.0)
    train = TrainConfig(steps=550_000, global_batch=2048, precision="bf16", strategy="zero2", optim=optim, ema_halflife_samples=14_000_000)
    stages = (
        Stage(name="autoencoder", task=AutoencoderKLConfig(image_size=768), data=squares, train=taken),
        Stage(name="text", task=text, data=squares, train=taken),
        Stage(name="denoiser", task=task, data=squares, train=train, needs=_UPSTREAM),
    )
    return Recipe(stages=stages, smoke=_smoke())
