"""Denoising diffusion in pixels (Ho et al. 2020, arXiv:2006.11239), unconditional and on classes.

A U-Net learns to tell the noise in pictures blurred by any share of it; sampling starts from noise alone and takes away what the
network sees, in many small steps (ancestral) or in few deterministic ones (Song et al. 2021, arXiv:2010.02502). On classes, labels
are dropped now and then, so that one network also knows pictures of no class, and sampling may lean away from those
(classifier-free guidance, Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from genlib import random
from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig, limited
from genlib.functional.guidance import classifier_free
from genlib.functional.samplers import Denoiser, trailing
from genlib.models.base.labels import check_labelled, class_numbers
from genlib.models.diffusion.base import pixels
from genlib.models.diffusion.base.pixels import PixelTask, PixelUNet, check_one_size
from genlib.models.diffusion.base.process import DiscreteConfig, Network, denoiser, denoising_loss
from genlib.models.diffusion.base.sampling import Sampler, sample
from genlib.ports import Guidance, GuidanceRescale, Image, Labels, Seeds, Sizes, Steps
from genlib.random import SeededNoise
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class DDPMConfig(TaskConfig):
    """Pictures of a set, of no class in particular."""

    unet: PixelUNet = field(default_factory=PixelUNet)
    """What denoises."""
    process: DiscreteConfig = field(default_factory=DiscreteConfig)
    """Noise levels and the loss."""
    flip: bool = False
    """Mirror half of the training pictures from left to right."""
    clip: bool = False
    """Samplers keep their estimate of the picture in its range; diffusers' DDIMPipeline does the same under `use_clipped_model_output=True`."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def check_data(self, data: DataSpec) -> None:
        check_one_size(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> PixelDiffusion:
        self.check_data(data)
        return DDPM(self, data)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassDDPMConfig(DDPMConfig):
    """Pictures of a class that one names."""

    label_dropout: float = limited(0.1, at_least=0, below=1)
    """Share of training labels that are replaced by none; 0 leaves no guidance."""

    fields: ClassVar[tuple[str, ...]] = ("image", "label")

    def check_data(self, data: DataSpec) -> None:
        check_one_size(data)
        check_labelled(data, "ddpm_unconditional")

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> ClassDDPM:
        self.check_data(data)
        return ClassDDPM(self, data)


class PixelDiffusion(PixelTask):
    """What the tasks of this file and of inpainting share: pictures in, a denoiser out."""

    companions = replace(
        PixelTask.companions,
        assess="genlib.models.diffusion.ddpm_assess:assess",
        sheet="genlib.models.diffusion.ddpm_assess:sheet",
        export="genlib.models.diffusion.ddpm_export:export",
    )

    def __init__(self, config: DDPMConfig, data: DataSpec, more_channels: int = 0, num_classes: int = 0) -> None:
        super().__init__(config.unet, data, flip=config.flip, more_channels=more_channels, num_classes=num_classes)
        self.config, self.schedule = config, config.process.schedule()

    def network(self, batch: Batch) -> Network:
        """The network as it sees these samples."""
        return self.predict

    def of_no_class(self, x: Tensor, time: Tensor) -> Tensor:
        """A `Network` of pictures of which nothing is known, whether or not classes can be named."""
        return self.predict(x, time)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return denoising_loss(self.network(batch), batch["image"], batch, step, self.config.process, self.schedule)

    def evaluate(self, batch: Batch) -> Metrics:
        loss, metrics = denoising_loss(self.network(batch), batch["image"], batch, Step(0, 1), self.config.process, self.schedule)
        return {"loss": loss, **metrics}

    def estimate(self, network: Network) -> Denoiser:
        """A predicting network as samplers call it."""
        estimate = denoiser(network, self.config.process, self.schedule)
        return (lambda x, time: estimate(x, time).clamp(-1, 1)) if self.config.clip else estimate

    @torch.no_grad()
    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), max_steps=len(self.schedule))

    def sample(self, network: Network, seed: Sequence[int], steps: int = 50, sampler: str = "ddim") -> Tensor:
        """Pictures (len(seed), C, H, W) in [0, 1] that a predicting network leads to."""
        pictures = sample(self.estimate(network), SeededNoise(seed, self.shape, self.device), trailing(self.schedule, steps), sampler)
        return (pictures / 2 + 0.5).clamp(0, 1)


class DDPM(PixelDiffusion):
    """The task without classes."""

    @action
    def generate(self, *, seed: Seeds, steps: Steps = 50, sampler: Sampler = "ddim") -> Image:
        """Pictures (len(seed), C, H, W) in [0, 1], each of its own seed."""
        return self.sample(self.predict, seed, steps, sampler)


class ClassDDPM(PixelDiffusion):
    """The task on classes; the label after the last class stands for none."""

    companions = replace(PixelDiffusion.companions, example="genlib.models.diffusion.ddpm:example_of_classes")

    def __init__(self, config: ClassDDPMConfig, data: DataSpec) -> None:
        super().__init__(config, data, num_classes=len(data.class_names) + 1)
        self.label_dropout = config.label_dropout

    def network(self, batch: Batch) -> Network:
        return partial(self.predict, label=batch["label"])

    def of_no_class(self, x: Tensor, time: Tensor) -> Tensor:
        return self.predict(x, time, torch.full_like(time, self.num_classes - 1))

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        dropped = random.uniform(batch["position"], seed=step.seed, stream="label dropout") < self.label_dropout
        label = torch.where(dropped, self.num_classes - 1, batch["label"])
        return super().loss(phase, {**batch, "label": label}, step)

    @action
    def generate(
        self,
        *,
        seed: Seeds,
        label: Labels,
        steps: Steps = 50,
        guidance_scale: Guidance = 1.0,
        guidance_rescale: GuidanceRescale = 0.0,
        sampler: Sampler = "ddim",
    ) -> Image:
        """Pictures (len(seed), C, H, W) in [0, 1], each of its own seed and class; a guidance scale above 1 exaggerates the class."""
        return self.sample(self.guided(label, len(seed), guidance_scale, guidance_rescale), seed, steps, sampler)

    def guided(self, label: list[int], count: int, scale: float, rescale: float = 0.0) -> Network:
        """The network that predicts for `count` pictures of these classes, leaning away from no class by the scale."""
        labels = class_numbers(label, count, self.data, self.device)
        if scale != 1 and not self.label_dropout:
            raise ValueError(f"guidance_scale is {scale:g}, but the model was trained with label_dropout 0 and knows no pictures of no class; give 1")
        if scale == 1:
            return partial(self.predict, label=labels)
        both = torch.cat([labels, torch.full_like(labels, self.num_classes - 1)])

        def predict(x: Tensor, time: Tensor) -> Tensor:
            with_class, without = self.predict(x.repeat(2, 1, 1, 1), time.repeat(2), both).chunk(2)
            return classifier_free(with_class, without, scale, rescale)

        return predict


def example_of_classes(task: ClassDDPM, size: int) -> Batch:
    """See `Companions.example`."""
    return {**pixels.example(task, size), "label": torch.arange(size) % len(task.data.class_names)}


SMALL = PixelUNet(widths=(16, 16), norm_groups=4)
"""The network of smoke recipes."""
SHORT: dict[str, Any] = {
    "global_batch": 128,
    "precision": "bf16",
    "optim": OptimConfig(learning_rate=2e-3, beta2=0.99, schedule="cosine", warmup_steps=50, clip_norm=1.0),
    "ema_halflife_samples": 5_000,
    "checkpoint_every_steps": 200,
}
"""Training settings of recipes that are done in a few minutes."""


def smoke(task: TaskConfig) -> tuple[Stage, ...]:
    """The smallest form of a recipe."""
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(learning_rate=3e-3))
    return (Stage(task=task, data=DataConfig(train="digits"), train=train),)


def ddpm() -> Recipe:
    """Handwritten digits of a class that one names, 8 x 8 pixels, in two minutes of one core.

    `python jobs/train.py ddpm`. Held-out loss 0.225 (of v, over all levels); a person reads the digits of every
    class at 50 steps (one process, 122 CPU-seconds).
    """
    task = ClassDDPMConfig(unet=PixelUNet(widths=(48, 96)), process=DiscreteConfig(beta_schedule="cosine", prediction="v"))
    stage = Stage(task=task, data=DataConfig(train="digits"), train=TrainConfig(steps=600, **SHORT))
    return Recipe(stages=(stage,), smoke=smoke(ClassDDPMConfig(unet=SMALL)))


def ddpm_unconditional() -> Recipe:
    """Coloured shapes, 16 x 16 pixels, drawn from noise alone.

    `python jobs/train.py ddpm_unconditional`. Held-out loss 0.065 (of v, over all levels); one process, 240 s beside other work.
    """
    task = DDPMConfig(unet=PixelUNet(widths=(32, 64)), process=DiscreteConfig(beta_schedule="cosine", prediction="v"))
    stage = Stage(task=task, data=DataConfig(train="shapes", image_size=16), train=TrainConfig(steps=600, **SHORT))
    return Recipe(stages=(stage,), smoke=smoke(DDPMConfig(unet=SMALL, flip=True)))


def ddpm_cifar10() -> Recipe:
    """The CIFAR-10 model of Ho et al. 2020, 35,746,307 parameters, as published (their appendix B).

    `python jobs/train.py ddpm_cifar10 --data.train 'cifar10/{00..49}.tar'`
    """
    unet = PixelUNet(widths=(128, 256, 256, 256), layers=2, attention=(1,), norm_groups=32, dropout=0.1)
    optim = OptimConfig(name="adam", learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0)
    train = TrainConfig(steps=800_000, global_batch=128, optim=optim, ema_halflife_samples=887_000, checkpoint_every_steps=5000)
    task = DDPMConfig(unet=unet, flip=True, clip=True)
    small = PixelUNet(widths=(16, 16), attention=(1,), norm_groups=4)
    stages = (Stage(task=task, data=DataConfig(image_size=32), train=train),)
    return Recipe(stages=stages, smoke=smoke(DDPMConfig(unet=small, flip=True, clip=True)))
