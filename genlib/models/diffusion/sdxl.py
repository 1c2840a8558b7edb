"""SDXL (Podell et al. 2023, arXiv:2307.01952): latent diffusion with two text encoders, size and crop conditioning, and a refiner.

The U-Net reads the hidden states before the last block of both text encoders side by side, and is told beside the time: the second
encoder's summary of the text, the size of the original image, where it was cut, and the size it is shown in. So small and cut images
can be trained on without the model drawing blurred and cut pictures. The refiner is a second network for the last, least noisy part of
the way: the base hands its latents over to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genlib.config import DataConfig, OptimConfig, TrainConfig, limited
from genlib.functional.samplers import Denoiser
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.models.autoencoders.kl import AutoencoderKLConfig
from genlib.models.diffusion.base import latent_tiny as tiny
from genlib.models.diffusion.base.latent import Condition, GenerationSpec
from genlib.models.diffusion.base.latent_unet import LatentUNetConfig
from genlib.models.diffusion.base.process import DiscreteConfig
from genlib.models.diffusion.ldm import LatentDiffusion, LatentDiffusionConfig
from genlib.models.representation.base.clip_towers import TextTransformer
from genlib.models.representation.text_encoder import FrozenTextTower, TextEncoderConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec

SIZES = 6
"""Numbers of the size conditioning: original height and width, top and left of the cut, height and width shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SDXLConfig(LatentDiffusionConfig):
    """The base model; the defaults are the published network."""

    roles: ClassVar[tuple[str, ...]] = ("autoencoder", "text", "text_2")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> SDXL:
        self.check_inputs(data, upstream)
        return SDXL(self, data, upstream)


class SDXL(LatentDiffusion):
    """The task: the base model."""

    companions = replace(LatentDiffusion.companions, export="genlib.models.diffusion.latent_export:export_sdxl")
    keeps_constants = False  # no text is zeros

    def network(self, channels: int, side: int) -> Any:
        first, second = self.towers
        if not second.pooled_width:
            raise ValueError("SDXL's second text encoder must have a projection, for it gives the summary of the text; set its embed_dim")
        return self.config.unet.build(channels, first.width + second.width, side, pooled_dim=second.pooled_width, size_ids=SIZES)

    def encode_texts(self, *tokens: Tensor) -> Batch:
        """Tokens (B, N) of both text encoders -> `text` (B, N, D1 + D2), the hidden states before their last blocks, and `pooled` (B, P)."""
        (first, _, _), (second, _, pooled) = (tower.states(t) for tower, t in zip(self.towers, tokens, strict=True))
        assert pooled is not None
        return {"text": torch.cat([first, second], -1), "pooled": pooled}

    def condition(self, encoded: Batch) -> Condition:
        return *super().condition(encoded), encoded["pooled"], encoded["sizes"].to(encoded["pooled"].dtype)

    def unconditional(self, condition: Condition) -> Condition:
        """No text is zeros, as in the published pipeline."""
        text, pooled, sizes = condition
        return torch.zeros_like(text), torch.zeros_like(pooled), sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class SDXLRefinerConfig(LatentDiffusionConfig):
    """The refiner; the defaults are the published network."""

    unet: LatentUNetConfig = field(
        default_factory=lambda: LatentUNetConfig(block_out_channels=(384, 768, 1536, 1536), transformer_layers=(0, 4, 4, 0), size_dim=256)
    )
    """The network."""
    share: float = limited(0.2, above=0, at_most=1)
    """The share of the noise levels, from the least, that it learns, and that it walks when it takes over from the base."""
    aesthetic_score: float = 6.0
    """Aesthetic score that the refiner is conditioned on for the prompts."""
    negative_aesthetic_score: float = 2.5
    """Aesthetic score that it is conditioned on for what guidance pushes away from."""

    roles: ClassVar[tuple[str, ...]] = ("base",)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> SDXLRefiner:
        base = upstream.get("base")
        if not isinstance(base, SDXL):
            raise ValueError("the refiner takes over from an SDXL base; its stage needs one under the role 'base'")
        self.check_inputs(data, {"autoencoder": base.autoencoder, "base": base})
        if self.process.levels != base.config.process.levels:
            raise ValueError("the refiner's noise levels are not those of its base, whose latents it takes over; give both the same task.process")
        return SDXLRefiner(self, data, upstream)


class SDXLRefiner(LatentDiffusion):
    """The task: a network for the last part of the way, with the base frozen inside. It reads the second text encoder alone."""

    companions = replace(LatentDiffusion.companions, export="genlib.models.diffusion.latent_export:export_with_refiner")
    keeps_constants = False
    config: SDXLRefinerConfig  # type: ignore[override]

    @property
    def base(self) -> SDXL:
        """The frozen base model."""
        found = self.upstream["base"]
        assert isinstance(found, SDXL)
        return found

    @property
    def autoencoder(self) -> ImageAutoencoder:
        return self.base.autoencoder

    @property
    def towers(self) -> list[FrozenTextTower]:
        return self.base.towers[1:]

    def network(self, channels: int, side: int) -> Any:
        (tower,) = self.towers
        return self.config.unet.build(channels, tower.width, side, pooled_dim=tower.pooled_width, size_ids=SIZES - 1)

    def encode_texts(self, *tokens: Tensor) -> Batch:
        """Tokens [(B, N)] -> `text` (B, N, D), the hidden states before the last block, and `pooled` (B, P)."""
        text, _, pooled = self.towers[0].states(tokens[0])
        assert pooled is not None
        return {"text": text, "pooled": pooled}

    def condition(self, encoded: Batch) -> Condition:
        sizes = encoded["sizes"].to(encoded["pooled"].dtype)
        score = torch.full_like(sizes[:, :1], self.config.aesthetic_score)
        return *super().condition(encoded), encoded["pooled"], torch.cat([sizes[:, :4], score], 1)

    def unconditional(self, condition: Condition) -> Condition:
        text, pooled, sizes = condition
        return torch.zeros_like(text), torch.zeros_like(pooled), sizes

    def cond_uncond(self, spec: GenerationSpec) -> tuple[Condition, Condition]:
        condition, (text, pooled, sizes) = super().cond_uncond(spec)
        low = torch.full_like(sizes[:, :1], self.config.negative_aesthetic_score)
        return condition, (text, pooled, torch.cat([sizes[:, :4], low], 1))

    def guided(self, spec: GenerationSpec) -> Denoiser:
        """The base where noise is strong, the refiner where it is weak: one run by two networks."""
        first, rest, over = self.base.guided(spec), super().guided(spec), self.config.share * len(self.schedule)
        return lambda x, time: (first if time >= over else rest)(x, time)

    def step_calls(self) -> Iterable[tuple[nn.Module, str]]:
        return *super().step_calls(), *self.base.step_calls()

    @property
    def times(self) -> tuple[float, float]:
        return 0.0, self.config.share


def sdxl_tiny() -> Recipe:
    """SDXL on icons on two CPU cores: autoencoder, two text encoders, base and refiner, all from nothing.

    `python jobs/sdxl_pretrain.py`. Two ZeRO-1 workers on two shared cores: 784 s of training, 14 min 47 s from launch to export, autoencoder
    26.7 dB on unseen icons; judged by the CLIP of `clip_tiny` on 1,000 unseen names: FID 0.054. With 1,700 steps of the
    denoiser, 560 of the autoencoder and 400 of the refiner: 868 s and 0.049, and pictures that are easier to name.
    """
    process = DiscreteConfig(beta_schedule="cosine", prediction="v", zero_terminal_snr=True, time_spread=1.0)
    unet = LatentUNetConfig(block_out_channels=(96, 96), transformer_layers=(0, 1), layers_per_block=1, head_dim=32, size_dim=32)
    base = SDXLConfig(unet=unet, process=process, prompts=tiny.PROMPTS, guidance_scale=4.0, scale_text=True)
    small = LatentUNetConfig(block_out_channels=(64, 96), transformer_layers=(0, 1), layers_per_block=1, head_dim=32, size_dim=32)
    refiner = SDXLRefinerConfig(unet=small, process=process, prompts=tiny.PROMPTS, guidance_scale=4.0, scale_text=True)
    stages = (
        tiny.autoencoder_stage(),
        tiny.text_stage("text", 128, 100),
        tiny.text_stage("text_2", 256, 600),
        Stage(name="denoiser", task=base, data=tiny.ICONS, train=tiny.training(1350, 128, 2e-3, ema_halflife_samples=15_000), needs=_UPSTREAM),
        Stage(
            name="refiner", task=refiner, data=tiny.ICONS, train=tiny.training(300, 64, 2e-3, ema_halflife_samples=4000), needs={"base": "denoiser"}
        ),
    )
    return Recipe(stages=stages, smoke=_smoke())


_UPSTREAM = {"autoencoder": "autoencoder", "text": "text", "text_2": "text_2"}


def _smoke() -> tuple[Stage, ...]:
    """All stages in their smallest form."""
    unet = LatentUNetConfig(block_out_channels=(16, 32), transformer_layers=(0, 1), layers_per_block=1, head_dim=8, norm_groups=4, size_dim=8)
    process = DiscreteConfig(beta_schedule="scaled_linear", prediction="v", zero_terminal_snr=True, min_snr_gamma=5.0)
    options: dict[str, Any] = {"unet": unet, "process": process, "prompts": ("a red circle", "a blue square"), "scale_text": True}
    return (
        tiny.smoke_autoencoder(),
        tiny.smoke_text("text"),
        tiny.smoke_text("text_2", width=24, layers=1),
        tiny.smoke_stage("denoiser", SDXLConfig(**options), needs=_UPSTREAM),
        tiny.smoke_stage("refiner", SDXLRefinerConfig(**options), needs={"base": "denoiser"}),
    )


def sdxl() -> Recipe:
    """SDXL as published, 2,567,463,684 parameters in the base, over WebDataset shards; autoencoder and text encoders from local folders.

    `ray job submit --working-dir . -- python jobs/sdxl_pretrain.py --recipe sdxl --workers 64 --denoiser.data.train 'shards/{00000..09999}.tar'
    --autoencoder.train.start_from SDXL/vae --text.train.start_from SDXL/text_encoder --text_2.train.start_from SDXL/text_encoder_2`
    """
    taken = TrainConfig(steps=0)
    second = TextEncoderConfig(text=TextTransformer(width=1280, layers=32, heads=20), activation="gelu", embed_dim=1280)
    buckets = DataConfig(image_size=1024, bucket_step=64, bucket_max_aspect=4.0)
    unet = LatentUNetConfig(gradient_checkpointing=True)
    optim = OptimConfig(learning_rate=1e-4, weight_decay=0.01, warmup_steps=2000, clip_norm=1.0)
    train = TrainConfig(steps=600_000, global_batch=2048, precision="bf16", strategy="zero2", optim=optim, ema_halflife_samples=14_000_000)
    process = DiscreteConfig(beta_schedule="scaled_linear", offset_noise=0.05, min_snr_gamma=5.0)
    base = SDXLConfig(image_size=1024, unet=unet, process=process)
    refining = LatentUNetConfig(block_out_channels=(384, 768, 1536, 1536), transformer_layers=(0, 4, 4, 0), size_dim=256, gradient_checkpointing=True)
    refiner = SDXLRefinerConfig(image_size=1024, unet=refining, process=process)
    stages = (
        Stage(name="autoencoder", task=AutoencoderKLConfig(image_size=1024), data=buckets, train=taken),
        Stage(name="text", task=TextEncoderConfig(), data=buckets, train=taken),
        Stage(name="text_2", task=second, data=buckets, train=taken),
        Stage(name="denoiser", task=base, data=buckets, train=train, needs=_UPSTREAM),
        Stage(name="refiner", task=refiner, data=buckets, train=train, needs={"base": "denoiser"}),
    )
    return Recipe(stages=stages, smoke=_smoke())
