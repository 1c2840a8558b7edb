"""Rectified flow in pixels and its reflow (Liu et al. 2022, arXiv:2209.03003).

A network learns the velocity noise - x0 on straight lines between pictures and noise; following it from noise draws a picture. The
lines cross, so what is followed is bent. A second network that learns on the first one's own pairs of noise and picture has
lines that cross less: straighter paths, fewer steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from genlib import random
from genlib.config import DataConfig, TaskConfig, TrainConfig, limited
from genlib.models.diffusion.base import pixels
from genlib.models.diffusion.base.flow import flow_loss, follow
from genlib.models.diffusion.base.pixels import PixelTask, PixelUNet, check_one_size
from genlib.models.diffusion.base.sampling import CONTINUOUS_STEPS
from genlib.models.diffusion.ddpm import SHORT, SMALL, smoke
from genlib.ports import Image, Seeds, Sizes, Steps
from genlib.random import seeded_normal
from genlib.recipe import Recipe, Stage
from genlib.task import Task, action
from genlib.types import Batch, DataSpec, Metrics, Step
from genlib.upstream import as_kept

TIME_SCALE = 1000.0
"""A U-Net gets t times this, the range that its sinusoids are made for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RectifiedFlowConfig(TaskConfig):
    """A flow between noise and pictures."""

    unet: PixelUNet = field(default_factory=PixelUNet)
    """What says the velocity."""
    flip: bool = False
    """Mirror half of the training pictures from left to right."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def check_data(self, data: DataSpec) -> None:
        check_one_size(data)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> RectifiedFlow:
        return RectifiedFlow(self, data)


class RectifiedFlow(PixelTask):
    """The task: pictures in, a velocity out."""

    frozen_precision = "bf16"  # as a teacher; its steps add up in fp32

    companions = replace(
        PixelTask.companions,
        assess="genlib.models.diffusion.rectified_flow_assess:assess",
        sheet="genlib.models.diffusion.rectified_flow_assess:sheet",
    )

    def __init__(self, config: RectifiedFlowConfig, data: DataSpec, upstream: Mapping[str, Task] | None = None) -> None:
        super().__init__(config.unet, data, flip=config.flip, upstream=upstream)
        self.config = config

    def sizes(self, data: DataSpec) -> Sizes:
        return replace(super().sizes(data), max_steps=CONTINUOUS_STEPS)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The network as a `Velocity`."""
        return self.predict(x, t * TIME_SCALE)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        noise = random.normal(batch["position"], self.shape, seed=step.seed, stream="flow noise")
        return self.loss_between(batch["image"], noise, batch, step), {}

    def loss_between(self, x0: Tensor, noise: Tensor, batch: Batch, step: Step) -> Tensor:
        """`flow_loss` (B,) at times uniform in [0, 1), keyed by position."""
        t = random.uniform(batch["position"], seed=step.seed, stream="flow time")
        return flow_loss(self.velocity, x0, noise, t)

    def evaluate(self, batch: Batch) -> Metrics:
        return {"loss": self.loss("train", batch, Step(0, 1))[0]}

    @action
    @torch.no_grad()
    def generate(self, *, seed: Seeds, steps: Steps = 32) -> Image:
        """Pictures (len(seed), C, H, W) in [0, 1], each of its own seed."""
        return (follow(self.velocity, seeded_normal(seed, self.shape, self.device), steps) / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReflowConfig(TaskConfig):
    """A straighter flow from a trained one, the stage it needs as `teacher`, whose network it starts as."""

    roles: ClassVar[tuple[str, ...]] = ("teacher",)

    teacher_steps: int = limited(16, at_least=1)
    """Euler steps in which the teacher draws the picture of a noise."""

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Reflow:
        teacher = upstream.get("teacher")
        if not isinstance(teacher, RectifiedFlow):
            raise ValueError("reflow straightens a trained rectified flow; give the stage that trains one as needs={'teacher': its name}")
        return Reflow(self, teacher)


class Reflow(RectifiedFlow):
    """The task: the teacher's pairs of noise and picture in, a velocity out. A sample of the data gives its number alone."""

    companions = replace(RectifiedFlow.companions, example="genlib.models.diffusion.rectified_flow:example_of_reflow")

    def __init__(self, config: ReflowConfig, teacher: RectifiedFlow) -> None:
        super().__init__(teacher.config, teacher.data, upstream={"teacher": teacher})
        self.teacher_steps = config.teacher_steps
        self.net.load_state_dict(teacher.net.state_dict())

    @property
    def teacher(self) -> RectifiedFlow:
        """The frozen flow that is straightened."""
        found = self.upstream["teacher"]
        assert isinstance(found, RectifiedFlow)
        return found

    def encode(self, batch: Batch) -> Batch:
        noise, image = self.pairs(batch["sample"], "reflow noise")
        return {"noise": noise, "image": image}

    def pairs(self, number: Tensor, stream: str) -> tuple[Tensor, Tensor]:
        """Noise (B, C, H, W) keyed by numbers (B,), and the teacher's pictures of it."""
        noise = random.normal(number, self.shape, seed=0, stream=stream)
        with as_kept(self.teacher, noise.device):
            return noise, follow(self.teacher.velocity, noise, self.teacher_steps)

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return self.loss_between(batch["image"], batch["noise"], batch, step), {}

    def evaluate(self, batch: Batch) -> Metrics:
        noise, image = self.pairs(batch["position"], "held-out reflow noise")
        return {"loss": self.loss_between(image, noise, batch, Step(0, 1))}


def example_of_reflow(task: Reflow, size: int) -> Batch:
    """See `Companions.example`."""
    return {**pixels.example(task, size), "noise": torch.randn(size, *task.shape)}


def rectified_flow() -> Recipe:
    """Coloured shapes, 16 x 16 pixels: a rectified flow, then one reflow that draws in few steps.

    `python jobs/train.py rectified_flow`. Straightness (0 is a straight line) 0.040 of the flow and 0.0071 after the reflow,
    whose pictures of one step are nearly those of 64 (one process, 281 s and 390 s beside other work).
    """
    data = DataConfig(train="shapes", image_size=16)
    flow = Stage(
        name="flow", task=RectifiedFlowConfig(unet=PixelUNet(widths=(32, 64))), data=data, train=TrainConfig(steps=600, **SHORT)
    )  # fmt: skip
    reflow = Stage(name="reflow", task=ReflowConfig(), data=data, train=TrainConfig(steps=300, **SHORT), needs={"teacher": "flow"})
    (small,) = smoke(RectifiedFlowConfig(unet=SMALL))
    small_reflow = replace(small, name="reflow", task=ReflowConfig(teacher_steps=2), needs={"teacher": "flow"})
    return Recipe(stages=(flow, reflow), smoke=(replace(small, name="flow"), small_reflow))
