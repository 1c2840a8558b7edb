"""Generators in their smallest form: the mean picture of the data, and around it noise of the seed. By captions, by labels, by nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genlib.config import DataConfig, OptimConfig, TaskConfig, TrainConfig
from genlib.ports import Image, Labels, NoiseLevel, Seeds, Texts
from genlib.recipe import Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


class Painter(Task):
    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.data = data
        self.net = nn.ParameterDict({"mean": torch.full((data.channels, data.image_size, data.image_size), 0.5)})

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return (batch["image"] - self.net["mean"]).square().mean((1, 2, 3)), {}

    def paint(self, seed: list[int], spread: float) -> Tensor:
        noise = [torch.randn(self.net["mean"].shape, generator=torch.Generator().manual_seed(one)) for one in seed]
        return (self.net["mean"] + spread * torch.stack(noise)).clamp(0, 1)


class ByNothing(Painter):
    @action
    def generate(self, *, seed: Seeds, spread: NoiseLevel = 0.1) -> Image:
        """Pictures (B, C, H, W) in [0, 1]."""
        return self.paint(seed, spread)


class ByLabel(Painter):
    @action
    def generate(self, *, seed: Seeds, label: Labels, spread: NoiseLevel = 0.1) -> Image:
        """Pictures (B, C, H, W) in [0, 1], brighter by class."""
        return (self.paint(seed, spread) + torch.tensor(label)[:, None, None, None] / 20).clamp(0, 1)


class ByPrompt(Painter):
    @action
    def generate(self, *, seed: Seeds, prompt: Texts, spread: NoiseLevel = 0.1) -> Image:
        """Pictures (B, C, H, W) in [0, 1], red ones red."""
        image = self.paint(seed, spread)
        image[["red" in text for text in prompt], 1:] *= 0.2
        return image


KINDS = {"nothing": ByNothing, "label": ByLabel, "prompt": ByPrompt}


@dataclass(frozen=True, kw_only=True, slots=True)
class PainterConfig(TaskConfig):
    by: Literal["nothing", "label", "prompt"] = "nothing"
    """What `generate` is asked by."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Painter:
        return KINDS[self.by](data)


def stage(by: str, data: DataConfig, name: str = "train") -> Stage:
    train = TrainConfig(steps=20, global_batch=32, trackers=(), optim=OptimConfig(learning_rate=0.05))
    return Stage(name=name, task=PainterConfig(by=by), data=data, train=train)
