"""Restoration: what a picture has lost, learnt from whole ones, of which the given ones are made: its colours, or its detail.

It is pix2pix (Isola et al. 2017, arXiv:1611.07004, which colours pictures so in section 4.2) whose pairs need not be there before: any set of
pictures trains it. Adversarial super-resolution is that of Ledig et al. 2017 (arXiv:1609.04802), here on pictures that are enlarged first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genlib.config import DataConfig, OptimConfig, TrainConfig, limited
from genlib.models.translation.base.pictures import PictureConfig, TranslationTransform
from genlib.models.translation.base.translator import Patches, decibels, shown
from genlib.models.translation.pix2pix import Pix2Pix, Pix2PixConfig
from genlib.recipe import Recipe, Stage
from genlib.task import Task
from genlib.types import Batch, DataSpec, Samples

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in a grey level (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorationConfig(Pix2PixConfig):
    """As of pix2pix; a kind says what is lost."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def validate(self) -> None:
        if self.backwards:
            raise ValueError("backwards is of pairs, and a restoration has none: it makes whole pictures of those that lost something; leave it out")

    def check_data(self, data: DataSpec) -> None:
        self.check_sizes(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Restoration:
        self.check_data(data)
        return Restoration(self, data)

    def lost(self, whole: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] without what is to be restored, in the same shape."""
        raise NotImplementedError

    def given(self, pictures: Tensor) -> Tensor:
        """Pictures that a user gives, as the network is to see them."""
        return pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class ColouriseConfig(RestorationConfig):
    """Colours are lost."""

    def check_data(self, data: DataSpec) -> None:
        RestorationConfig.check_data(self, data)
        if data.channels != 3:
            raise ValueError("colourise learns from pictures in colour, and these are grey; take others, such as the set shapes")

    def lost(self, whole: Tensor) -> Tensor:
        grey = torch.einsum("bchw,c->bhw", whole, whole.new_tensor(LUMA))
        return grey[:, None].expand_as(whole).contiguous()

    def given(self, pictures: Tensor) -> Tensor:
        return self.lost(pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperResolutionConfig(RestorationConfig):
    """Detail is lost: what is given is a small picture enlarged."""

    factor: int = limited(4, at_least=2)
    """Pixels of a side that become one."""

    def check_data(self, data: DataSpec) -> None:
        RestorationConfig.check_data(self, data)
        if (side := self.pictures.side(data)) % self.factor:
            raise ValueError(f"image_size {side} is not divisible by factor {self.factor}; use {-(-side // self.factor) * self.factor}")

    def lost(self, whole: Tensor) -> Tensor:
        small = F.avg_pool2d(whole, self.factor)
        return F.interpolate(small, scale_factor=self.factor, mode="bicubic", align_corners=False).clamp(-1, 1)


class RestorationTransform(TranslationTransform):
    """Batches with pictures `b` and, made of them, `a`, (B, C, side, side) float32 in [-1, 1]."""

    fields = ("image",)

    def __init__(self, pictures: PictureConfig, side: int, config: RestorationConfig, *, train: bool) -> None:
        super().__init__(pictures, side, two_sets=False, train=train)
        self.config = config

    def __call__(self, samples: Samples) -> Batch:
        whole = self._pixels(samples, "image", torch.from_numpy(samples.position), samples.seed)
        return {"a": self.config.lost(whole), "b": whole}


class Restoration(Pix2Pix):
    """The task."""

    config: RestorationConfig

    def transform(self, train: bool) -> RestorationTransform:
        return RestorationTransform(self.pictures, self.side, self.config, train=train)

    def seen(self, image: Tensor, multiple: int = 0) -> Tensor:
        """See `Translator.seen`; a picture that has all its colours loses them first, an enlarged one is taken as it is."""
        return self.config.given(super().seen(image, multiple))

    def evaluation_features(self, batch: Batch) -> Batch:
        """As of pix2pix, and the peak signal-to-noise ratio of what is given, which is to be beaten."""
        return {**super().evaluation_features(batch), "given_psnr_db": decibels(shown(batch["a"]), shown(batch["b"]))}


def colourise() -> Recipe:
    """Shapes in warm colours, 16 x 16 pixels, from their grey levels.

    `python jobs/train.py colourise`. Held-out pictures come back with 28.7 dB, where the grey ones that were given have 20.5 dB; edges of yellow, as
    dark as orange, turn orange; 41 CPU-seconds. Of all colours of the shapes it could not learn so: red, blue and purple have one grey level.
    """
    return _recipe(
        ColouriseConfig(width=16, downs=4, patches=Patches(width=16, layers=1)), DataConfig(train="shapes_warm", image_size=16), steps=1500
    )


def super_resolution() -> Recipe:
    """Icons of 32 x 32 pixels from 8 x 8.

    `python jobs/train.py super_resolution`. Icons of a family that it never saw come back with 15.2 dB, where the enlarged ones that were given have
    13.3 dB: with sharp edges and, where strokes stand apart, the right shape; 54 CPU-seconds.
    """
    return _recipe(SuperResolutionConfig(width=16, downs=5, patches=Patches(width=16, layers=1)), DataConfig(train="icons", image_size=32), steps=800)


def _recipe(task: RestorationConfig, data: DataConfig, steps: int) -> Recipe:
    """As pix2pix, and a tiny one of the same kind on shapes."""
    optim = OptimConfig(name="adam", learning_rate=2e-3, beta1=0.5, schedule="cosine")
    train = TrainConfig(steps=steps, global_batch=16, optim=optim, evaluate_every_steps=500)
    short = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4, optim=OptimConfig(name="adam", learning_rate=1e-3, beta1=0.5))
    tiny = type(task)(width=4, downs=3, patches=Patches(width=8, layers=1))
    return Recipe(
        stages=(Stage(task=task, data=data, train=train),),
        smoke=(Stage(task=tiny, data=DataConfig(train="shapes_warm", image_size=16), train=short),),
    )
