"""What all models share that draw latents from texts: frozen encoders around a trained network, and a picture of a prompt at the end.

A frozen autoencoder makes latents of images, frozen text encoders make hidden states of captions (Rombach et al. 2022,
arXiv:2112.10752). Families say what their network is, what it learns, and where sampling asks it. Captions are left out now and
then, so that one network also knows no text, and guidance can push away from that (Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genlib import random
from genlib.companions import Companions
from genlib.config import TaskConfig, limited
from genlib.functional.grids import Grid
from genlib.functional.guidance import classifier_free
from genlib.functional.samplers import Denoiser
from genlib.models.autoencoders.base.image import ImageAutoencoder
from genlib.models.diffusion.base.latent_transform import LatentTransform
from genlib.models.diffusion.base.sampling import Sampler, run_sampler
from genlib.models.representation.text_encoder import FrozenTextTower, text_tower
from genlib.nn.tokenizer import FixedLengthTokenizer
from genlib.plurals import counted
from genlib.ports import Guidance, GuidanceRescale, Height, Image, NegativeText, Seeds, Sizes, Steps, Texts, Width
from genlib.random import SeededNoise
from genlib.task import Task, action
from genlib.types import Batch, DataSource, DataSpec, Metrics, Step

Condition = tuple[Tensor, ...]
"""Conditioning of the network, beside x and time: hidden states of the text (B, N, D), and for some a pooled text and sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentConfig(TaskConfig):
    """What the families share: which samples the network is trained on, and what it draws at the end."""

    image_size: int = limited(0, at_least=0)
    """Pixels a side of training images, or of the square that has the area of every aspect-ratio bucket; 0 is the data's own."""
    random_crop: bool = False
    """Cut images that are not of the training shape at a place that is random by sample, else in the middle."""
    prompts: tuple[str, ...] = ()
    """What the pictures at the end of training show; empty takes captions of held-out samples."""
    guidance_scale: float = limited(5.0, at_least=0)
    """Guidance of those pictures, and of `generate` where none is given; 1 is none."""

    fields: ClassVar[tuple[str, ...]] = ("image", "text")
    roles: ClassVar[tuple[str, ...]] = ("autoencoder", "text")

    @property
    def cell(self) -> int:
        """What the sides of latents must divide by."""
        raise NotImplementedError

    def check_data(self, data: DataSpec) -> None:
        if not data.has_captions:
            way_out = data.caption_hint or "; give shards that have with --data.train"
            raise ValueError(f"latent diffusion learns from captions, but the samples have none (.txt members){way_out}")

    def check_inputs(self, data: DataSpec, upstream: Mapping[str, Task]) -> None:
        """ValueError where the data or the upstream tasks cannot serve."""
        self.check_data(data)
        self.check_roles(upstream)
        autoencoder = upstream["autoencoder"]
        if not isinstance(autoencoder, ImageAutoencoder):
            kind = type(autoencoder).__name__
            raise ValueError(f"the autoencoder stage is a {kind}, which makes no latents of images; name a KL or VQ autoencoder")
        pixels, size = autoencoder.factor * self.cell, self.image_size or data.image_size
        if not size:
            raise ValueError("the images have many sizes; give one with --task.image-size")
        if size % pixels:
            raise ValueError(
                f"image size {size} is not divisible by {pixels}: the autoencoder shrinks by {autoencoder.factor}, "
                f"the network by {self.cell}; use {max(1, size // pixels) * pixels}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSpec:
    """What to generate: a prompt a picture, the size of all, and the guidance."""

    prompt: Sequence[str]
    negative_prompt: str = ""
    """What guidance pushes away from; empty is no text."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    guidance_scale: float = 1.0
    """Scale of classifier-free guidance; 1 is none."""
    guidance_rescale: float = 0.0
    """Share of the guided estimate whose spread is put back to that without guidance."""


class LatentTask(Task):
    """Base of the tasks: captioned images in, a text-conditional model of latents out. Frozen autoencoder and text encoders are part of its state."""

    companions = Companions(
        assess="genlib.models.diffusion.base.latent_assess:assess",
        sheet="genlib.models.diffusion.base.latent_assess:sheet",
        no_graphs="it draws in many steps of a sampler, and a graph is one pass; take its diffusers folder, or export the stage of its autoencoder",
        example="genlib.models.diffusion.base.latent:example",
    )
    frozen_precision = "bf16"  # a refiner's base, whose network waits until pictures are drawn
    upstream_prefix = "frozen_tasks."
    keeps_constants = True
    config: LatentConfig
    nothing: Batch | None = None
    """What the text encoders make of an empty caption, while it trains."""

    def __init__(self, config: LatentConfig, data: DataSpec, upstream: Mapping[str, Task]) -> None:
        super().__init__({role: upstream[role] for role in config.roles})
        self.config, self.data, self.size = config, data, config.image_size or data.image_size
        self.net = self.network(self.autoencoder.latent_channels, self.size // self.autoencoder.factor)

    def network(self, channels: int, side: int) -> Any:
        """A fresh network net(x, time, *condition) for latents (B, channels, side, side); its `model` is diffusers' own."""
        raise NotImplementedError

    def encode_texts(self, *tokens: Tensor) -> Batch:
        """Tokens (B, N) of each text encoder -> what these make of them, B rows each."""
        raise NotImplementedError

    def condition(self, encoded: Batch) -> Condition:
        """Conditioning from encoded samples: from what `encode_texts` gave, and `sizes` (B, 6)."""
        raise NotImplementedError

    def train_condition(self, batch: Batch, step: Step) -> Condition:
        """Conditioning of a training batch: some texts are left out."""
        raise NotImplementedError

    def unconditional(self, condition: Condition) -> Condition:
        """The same conditioning with an empty text, for classifier-free guidance."""
        raise NotImplementedError

    def denoising_loss(self, batch: Batch, condition: Condition, step: Step) -> tuple[Tensor, Metrics]:
        """The network's error (B,) on noised latents of the batch."""
        raise NotImplementedError

    def to_x0(self, prediction: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """The estimate of clean latents (B, c, h, w) from the network's prediction, at a time of the grid, of no dimension."""
        raise NotImplementedError

    def grid(self, steps: int, *, clean: bool = True) -> Grid:
        """Where sampling asks the network, from pure noise to clean latents, or else to the least noise it knows."""
        raise NotImplementedError

    @property
    def autoencoder(self) -> ImageAutoencoder:
        """The frozen autoencoder."""
        found = self.upstream["autoencoder"]
        assert isinstance(found, ImageAutoencoder)
        return found

    @property
    def towers(self) -> list[FrozenTextTower]:
        """The frozen text encoders."""
        return [text_tower(task) for role, task in self.upstream.items() if role.startswith("text")]

    def asked_upstream(self) -> Iterable[nn.Module]:
        return [self.autoencoder, *(tower.model for tower in self.towers)]

    def keep_constants(self) -> None:
        self.nothing = self.encode_prompts([""])

    def encode_nothing(self) -> Batch:
        """What the text encoders make of an empty caption, one row."""
        return self.encode_prompts([""]) if self.nothing is None else self.nothing

    def prepare(self, source: DataSource) -> None:
        if not self.autoencoder.scale.item():
            self.autoencoder.measure(source)

    @property
    def max_steps(self) -> int:
        """Most denoising steps that differ."""
        raise NotImplementedError

    def sizes(self, data: DataSpec) -> Sizes:
        multiple = self.autoencoder.factor * self.config.cell
        return replace(super().sizes(data), side=self.size, multiple=multiple, max_steps=self.max_steps)

    def step_calls(self) -> Iterable[tuple[nn.Module, str]]:
        return (self.net, "forward"), (self, "encode_texts"), (self, "decode_latents")

    def preview(self, x0: Tensor) -> Tensor:
        return self.decode_latents(x0)

    def transform(self, train: bool) -> LatentTransform:
        return LatentTransform(self.size, self.tokenizers(), self.config.random_crop)

    def tokenizers(self) -> list[FixedLengthTokenizer]:
        """One a text encoder."""
        return [tower.tokenizer.fixed_length(tower.pad_token) for tower in self.towers]

    def encode(self, batch: Batch) -> Batch:
        mean, std = self.autoencoder.encode_image(2 * batch["image"] - 1)
        tokens = [batch[f"tokens_{i}"] for i in range(len(self.towers))]
        return {"latent_mean": mean, "latent_std": std, **self.encode_texts(*tokens), "sizes": batch["sizes"]}

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Batch:
        """Output of the text encoders for texts."""
        return self.encode_texts(*(tokenizer(texts).to(self.device) for tokenizer in self.tokenizers()))

    def latents(self, batch: Batch, seed: int) -> Tensor:
        """Sampled latents (B, c, h, w) of unit standard deviation, with noise keyed by position."""
        mean, std = batch["latent_mean"], batch["latent_std"]
        drawn = mean + std * random.normal(batch["position"], tuple(mean.shape[1:]), seed=seed, stream="posterior")
        return (drawn - self.autoencoder.shift) * self.autoencoder.scale

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.denoising_loss(batch, self.train_condition(batch, step), step)

    def evaluate(self, batch: Batch) -> Metrics:
        loss, metrics = self.denoising_loss(batch, self.condition(batch), Step(0, 1))
        return {"loss": loss, **metrics}

    def prompt_condition(self, prompts: Sequence[str], width: int, height: int) -> Condition:
        """Conditioning on prompts, for pictures of that size in pixels."""
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=torch.int32).expand(len(prompts), 6)
        return self.condition({**self.encode_prompts(prompts), "sizes": sizes})

    def cond_uncond(self, spec: GenerationSpec) -> tuple[Condition, Condition]:
        """Conditioning on the prompts, and what guidance pushes away from: an empty text, or the negative prompt."""
        condition = self.prompt_condition(spec.prompt, spec.width, spec.height)
        if not spec.negative_prompt:
            return condition, self.unconditional(condition)
        return condition, self.prompt_condition([spec.negative_prompt] * len(spec.prompt), spec.width, spec.height)

    def guided(self, spec: GenerationSpec) -> Denoiser:
        """The network as samplers ask it, with classifier-free guidance where the scale is not 1."""
        cond, uncond = self.cond_uncond(spec)
        twice = [torch.cat(pair) for pair in zip(cond, uncond, strict=True)]

        def estimate(x: Tensor, time: Tensor) -> Tensor:
            times = time.to(x.device).expand(len(x))
            if spec.guidance_scale == 1:
                prediction = self.net(x, times, *cond)
            else:
                both = self.net(torch.cat([x, x]), torch.cat([times, times]), *twice)
                prediction = classifier_free(*both.chunk(2), spec.guidance_scale, spec.guidance_rescale)  # type: ignore[call-arg]
            return self.to_x0(prediction.to(x.dtype), x, time)

        return estimate

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) of unit standard deviation -> pictures (B, C, H, W) in [0, 1]."""
        return (self.autoencoder.decode_latent(latents / self.autoencoder.scale + self.autoencoder.shift).float() / 2 + 0.5).clamp(0, 1)

    @action
    @torch.no_grad()
    def generate(
        self, *, prompt: Texts, seed: Seeds, negative_prompt: NegativeText = "", steps: Steps = 25, guidance_scale: Guidance = -1.0,
        guidance_rescale: GuidanceRescale = 0.0, width: Width = 0, height: Height = 0, sampler: Sampler = "ddim",
    ) -> Image:  # fmt: skip
        """Pictures (B, C, height, width) in [0, 1] of prompts, one a seed; picture i is that of prompt i and seed i alone.

        guidance_scale 1 is none, below 0 the recipe's; sizes are in pixels, 0 the size of training.
        """
        spec = self.generation_spec(prompt, negative_prompt, guidance_scale, guidance_rescale, width or self.size, height or self.size)
        noise = self.noise(spec, seed)
        return self.decode_latents(run_sampler(sampler, self.guided(spec), noise(), self.grid(steps), noise))

    def generation_spec(self, prompt: Sequence[str], negative: str, scale: float, rescale: float, width: int, height: int) -> GenerationSpec:
        """From an action's arguments; a scale below 0 is the recipe's. ValueError where pictures cannot be of that size."""
        pixels = self.autoencoder.factor * self.config.cell
        if width % pixels or height % pixels or width < pixels or height < pixels:
            fitting = " x ".join(str(max(1, side // pixels) * pixels) for side in (width, height))
            raise ValueError(f"a picture of {width} x {height} pixels: both must be multiples of {pixels}; use {fitting}")
        scale = self.config.guidance_scale if scale < 0 else scale
        return GenerationSpec(prompt=prompt, negative_prompt=negative, width=width, height=height, guidance_scale=scale, guidance_rescale=rescale)

    def noise(self, spec: GenerationSpec, seed: Sequence[int]) -> SeededNoise:
        """Noise of latents, with one generator a picture. ValueError where prompts and seeds differ in number."""
        if len(spec.prompt) != len(seed):
            raise ValueError(f"prompt has {counted(len(spec.prompt), 'entry', 'entries')} for {counted(len(seed), 'seed')}; give one seed a prompt")
        factor = self.autoencoder.factor
        return SeededNoise(seed, (self.autoencoder.latent_channels, spec.height // factor, spec.width // factor), self.device)


def example(task: LatentTask, size: int) -> Batch:
    """Latents of zeros, and what the text encoders make of tokens of zeros."""
    side = task.size // task.autoencoder.factor
    latents = torch.zeros(size, task.autoencoder.latent_channels, side, side)
    with torch.no_grad():
        texts = task.encode_texts(*(torch.zeros(size, tower.length, dtype=torch.int64).to(task.device) for tower in task.towers))
    sizes = torch.tensor([[task.size, task.size, 0, 0, task.size, task.size]], dtype=torch.int32).expand(size, 6)
    return {"latent_mean": latents, "latent_std": latents + 1, "sizes": sizes, **{name: value.float() for name, value in texts.items()}}
