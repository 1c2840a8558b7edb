"""Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206): rectified flow on latents by a transformer that text and picture share.

Every block attends over the tokens of both, with weights of their own for each (MM-DiT). Texts come from three encoders: two of CLIP
side by side, filled up with zeros to the width of T5, whose tokens follow; a summary by both CLIPs steers every block with the time.
The network learns the velocity noise - x0 on straight lines, at times in the middle more often than at the ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib import random
from genlib.config import Config, DataConfig, OptimConfig, TrainConfig, limited
from genlib.functional import diffusion, grids
from genlib.models.autoencoders.kl import AutoencoderKLConfig
from genlib.models.diffusion.base import latent_tiny as tiny
from genlib.models.diffusion.base.flow import flow_loss
from genlib.models.diffusion.base.latent import Condition, LatentConfig
from genlib.models.diffusion.base.latent_editing import LatentEditor
from genlib.models.diffusion.base.sampling import CONTINUOUS_STEPS
from genlib.models.representation.base.clip_towers import TextTransformer
from genlib.models.representation.text_encoder import T5EncoderConfig, TextEncoderConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics, Step

TIMESTEPS = 1000
"""The network gets t times this."""
ENCODERS = (("text", "pooled"), ("text_2", "pooled_2"), ("text_3",))
"""What each text encoder gives, by the names of `SD3.encode_texts`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MMDiTConfig(Config):
    """Size of the transformer; the defaults are SD3-medium's."""

    layers: int = limited(24, at_least=1)
    """Blocks."""
    heads: int = limited(24, at_least=1)
    """Attention heads."""
    head_dim: int = limited(64, at_least=4)
    """Channels of a head."""
    patch_size: int = limited(2, at_least=1)
    """Latent cells a side of one token."""
    largest: int = limited(192, at_least=1)
    """Tokens a side of the largest picture that it has places for."""
    gradient_checkpointing: bool = False
    """Keep block inputs alone in the forward pass and compute the rest again in the backward pass."""

    def validate(self) -> None:
        if self.heads * self.head_dim % 4:
            raise ValueError(f"heads {self.heads} times head_dim {self.head_dim} is not divisible by 4, as places in the picture need; change one")

    def build(self, latent_channels: int, text_dim: int, pooled_dim: int, sample_size: int) -> nn.Module:
        """A `ConditionalTransformer` for latents (B, latent_channels, h, w), texts (B, N, text_dim) and summaries (B, pooled_dim)."""
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        model = SD3Transformer2DModel(
            sample_size=sample_size, patch_size=self.patch_size, in_channels=latent_channels, out_channels=latent_channels, num_layers=self.layers,
            attention_head_dim=self.head_dim, num_attention_heads=self.heads, joint_attention_dim=text_dim, pooled_projection_dim=pooled_dim,
            caption_projection_dim=self.heads * self.head_dim, pos_embed_max_size=self.largest,
        )  # fmt: skip
        if self.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        return ConditionalTransformer(model)


class ConditionalTransformer(nn.Module):
    """diffusers' MM-DiT with tensors in and out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, time: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        """x (B, c, h, w), time (B,), text (B, N, D) and pooled (B, P) -> (B, c, h, w)."""
        return self.model(hidden_states=x, timestep=time, encoder_hidden_states=text, pooled_projections=pooled).sample


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig(Config):
    """At which times t in (0, 1), 1 being noise, it learns: logit-normal, then moved towards noise, as sampling is."""

    mean: float = 0.0
    """Of the logit of t; above 0 is noisier."""
    std: float = limited(1.0, above=0)
    """Of the logit of t."""
    shift: float = limited(1.0, above=0)
    """How far times move, equation 23: the root of the ratio of pixels to those of the size that needs none; SD3 has 3 for 1024 a side."""

    def times(self, position: Tensor, seed: int) -> Tensor:
        """Times (B,), keyed by position (B,)."""
        normal = random.normal(position, seed=seed, stream="flow time")
        return diffusion.shift_times(diffusion.logit_normal(normal, self.mean, self.std), self.shift)


@dataclass(frozen=True, kw_only=True, slots=True)
class SD3Config(LatentConfig):
    """The flow, its network, and what samples it is shown with."""

    transformer: MMDiTConfig = field(default_factory=MMDiTConfig)
    """The network."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """When it learns."""
    text_dropout: tuple[float, float, float] = (0.464, 0.464, 0.464)
    """Share of samples for which each text encoder, on its own, is given an empty caption; 0.464 leaves 10% without any text."""

    roles: ClassVar[tuple[str, ...]] = ("autoencoder", "text", "text_2", "text_3")

    @property
    def cell(self) -> int:
        return self.transformer.patch_size

    def validate(self) -> None:
        if len(self.text_dropout) != 3 or not all(0 <= share < 1 for share in self.text_dropout):
            raise ValueError(f"task.text_dropout {self.text_dropout} must be three shares of at least 0 and below 1, one a text encoder")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> SD3:
        self.check_inputs(data, upstream)
        return SD3(self, data, upstream)


class SD3(LatentEditor):
    """The task: captioned images in, a text-conditional flow of latents out."""

    companions = replace(
        LatentEditor.companions,
        export="genlib.models.diffusion.latent_export:export_sd3",
        load_pretrained="genlib.models.diffusion.latent_export:load_transformer",
    )
    config: SD3Config  # type: ignore[override]

    def network(self, channels: int, side: int) -> Any:
        first, second, third = self.towers
        if not (first.pooled_width and second.pooled_width):
            raise ValueError("SD3's first two text encoders must have a projection, for they give the summary of the text; set their embed_dim")
        if first.length != second.length:
            raise ValueError(f"SD3's first two text encoders read {first.length} and {second.length} tokens; give both one context_length")
        if first.width + second.width > third.width:
            raise ValueError(f"SD3's third text encoder has width {third.width}; it needs that of both others, {first.width + second.width}, or more")
        if side > self.config.transformer.largest * self.config.cell:
            raise ValueError(f"task.transformer.largest {self.config.transformer.largest} is too small; use at least {-(-side // self.config.cell)}")
        return self.config.transformer.build(channels, third.width, first.pooled_width + second.pooled_width, side)

    def encode_texts(self, *tokens: Tensor) -> Batch:
        """Tokens (B, N) of the three encoders -> `text` and `text_2`, hidden states before the last blocks, `text_3`, the last ones, (B, N, D)
        each, and summaries `pooled` and `pooled_2` (B, P)."""
        (first, _, pooled), (second, _, pooled_2), (_, third, _) = (tower.states(t) for tower, t in zip(self.towers, tokens, strict=True))
        assert pooled is not None
        assert pooled_2 is not None
        return {"text": first, "text_2": second, "text_3": third, "pooled": pooled, "pooled_2": pooled_2}

    def condition(self, encoded: Batch) -> Condition:
        both, third = torch.cat([encoded["text"], encoded["text_2"]], -1), encoded["text_3"]
        text = torch.cat([F.pad(both, (0, third.shape[-1] - both.shape[-1])), third], 1)
        return text, torch.cat([encoded["pooled"], encoded["pooled_2"]], -1)

    def unconditional(self, condition: Condition) -> Condition:
        """No text is an empty caption, as in the published pipeline."""
        return tuple(empty.to(some.dtype).expand_as(some) for empty, some in zip(self.condition(self.encode_nothing()), condition, strict=True))

    def train_condition(self, batch: Batch, step: Step) -> Condition:
        """Leaves each encoder's text out on its own. Where the paper then has zeros, here is what the encoder makes of an empty caption, for
        that is what the exported pipeline pushes away from."""
        empty, given = self.encode_nothing(), dict(batch)
        for names, share in zip(ENCODERS, self.config.text_dropout, strict=True):
            left_out = random.uniform(batch["position"], seed=step.seed, stream=f"{names[0]} dropout") < share
            for name in names:
                here = left_out.view(-1, *[1] * (batch[name].dim() - 1))
                given[name] = torch.where(here, empty[name].to(batch[name].dtype), batch[name])
        return self.condition(given)

    def denoising_loss(self, batch: Batch, condition: Condition, step: Step) -> tuple[Tensor, Metrics]:
        """The squared error of the velocity (B,) at random times."""
        x0, position = self.latents(batch, step.seed), batch["position"]
        noise = random.normal(position, tuple(x0.shape[1:]), seed=step.seed, stream="flow noise").to(x0)
        return flow_loss(lambda x, t: self.net(x, TIMESTEPS * t, *condition), x0, noise, self.config.flow.times(position, step.seed)), {}

    def to_x0(self, prediction: Tensor, x: Tensor, time: Tensor) -> Tensor:
        return diffusion.to_x0_from_velocity(prediction, x, time / TIMESTEPS)

    @property
    def max_steps(self) -> int:
        return CONTINUOUS_STEPS

    def grid(self, steps: int, *, clean: bool = True) -> grids.Grid:
        """Euler's, from pure noise on."""
        flow = grids.flow_grid(steps if clean else steps + 1, self.config.flow.shift, TIMESTEPS)
        return flow if clean else flow.part(0, steps)


_UPSTREAM = {role: role for role in SD3Config.roles}


def _smoke() -> tuple[Stage, ...]:
    transformer = MMDiTConfig(layers=2, heads=2, head_dim=16, largest=16)
    third = T5EncoderConfig(vocab_size=600, width=48, feed_forward=32, layers=2, heads=2, head_dim=8, context_length=12)
    task = SD3Config(transformer=transformer, flow=FlowConfig(shift=1.5), prompts=("a red circle", "a blue square"))
    return (
        tiny.smoke_autoencoder(),
        tiny.smoke_text("text"),
        tiny.smoke_text("text_2", width=24),
        Stage(name="text_3", task=third, data=tiny.SHAPES),
        tiny.smoke_stage("denoiser", task, learning_rate=5e-3, needs=_UPSTREAM),
    )


def sd3_tiny() -> Recipe:
    """SD3's form on icons: autoencoder, two text encoders and the flow from nothing; the third text encoder, a small T5, keeps random weights.

    `python jobs/train.py sd3_tiny`. After half of its steps (`--denoiser.train.steps 1500`) the held-out loss is 0.642 and outlines follow the
    prompts, of home, lock, clock and car for example, without being icons yet (denoiser alone: one process, 655 s beside other work).
    """
    third = T5EncoderConfig(vocab_size=2000, width=256, feed_forward=512, layers=2, heads=4, context_length=16)
    task = SD3Config(transformer=MMDiTConfig(layers=4, heads=4, head_dim=32, largest=16), prompts=tiny.PROMPTS, guidance_scale=4.0)
    train = tiny.training(3000, 64, 1e-3, ema_halflife_samples=20_000)
    stages = (
        tiny.autoencoder_stage(),
        tiny.text_stage("text", 128, 100),
        tiny.text_stage("text_2", 256, 600),
        Stage(name="text_3", task=third, data=tiny.ICONS),
        Stage(name="denoiser", task=task, data=tiny.ICONS, train=train, needs=_UPSTREAM),
    )
    return Recipe(stages=stages, smoke=_smoke())


def sd3_medium() -> Recipe:
    """SD3-medium as published, 2,028,328,000 parameters in the transformer, over WebDataset shards; the rest from local folders.

    `ray job submit --working-dir . -- python jobs/train.py sd3_medium --workers 64 --denoiser.data.train 'shards/{00000..09999}.tar'
    --autoencoder.train.start_from SD3/vae --text.train.start_from SD3/text_encoder --text_2.train.start_from SD3/text_encoder_2
    --text_3.train.start_from SD3/text_encoder_3`
    """
    taken, buckets = TrainConfig(steps=0), DataConfig(image_size=1024, bucket_step=64, bucket_max_aspect=2.0)
    second = TextEncoderConfig(text=TextTransformer(width=1280, layers=32, heads=20), activation="gelu", embed_dim=1280)
    task = SD3Config(image_size=1024, transformer=MMDiTConfig(gradient_checkpointing=True), flow=FlowConfig(shift=3.0), guidance_scale=7.0)
    optim = OptimConfig(learning_rate=1e-4, weight_decay=0.01, warmup_steps=1000, clip_norm=1.0)
    train = TrainConfig(steps=500_000, global_batch=4096, precision="bf16", strategy="zero2", optim=optim, ema_halflife_samples=28_000_000)
    stages = (
        Stage(name="autoencoder", task=AutoencoderKLConfig(image_size=1024, latent_channels=16, quant_conv=False), data=buckets, train=taken),
        Stage(name="text", task=TextEncoderConfig(embed_dim=768), data=buckets, train=taken),
        Stage(name="text_2", task=second, data=buckets, train=taken),
        Stage(name="text_3", task=T5EncoderConfig(), data=buckets, train=taken),
        Stage(name="denoiser", task=task, data=buckets, train=train, needs=_UPSTREAM),
    )
    return Recipe(stages=stages, smoke=_smoke())
