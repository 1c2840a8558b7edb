"""Filling what a picture misses, inside (inpainting) or around it (outpainting), in two ways.

A model that is told the mask and the rest of the picture beside the noisy one learns to fill random masks (as Saharia et al. 2022,
arXiv:2111.05826, and Rombach et al. 2022). Or any trained pixel diffusion fills it without further training: at each step the
known pixels are put back at that step's noise, and steps are undone and done again until both fit (RePaint, Lugmayr et al. 2022,
arXiv:2201.09865). Known pixels always come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import DataConfig, TaskConfig, TrainConfig
from genlib.functional.inpainting import extend, inpaint
from genlib.functional.samplers import trailing
from genlib.models.diffusion.base.masks import random_masks
from genlib.models.diffusion.base.pixels import PixelTransform, PixelUNet
from genlib.models.diffusion.base.process import DiscreteConfig, Network
from genlib.models.diffusion.base.sampling import Sampler
from genlib.models.diffusion.ddpm import SHORT, SMALL, DDPMConfig, PixelDiffusion, ddpm_unconditional, smoke
from genlib.plurals import counted
from genlib.ports import Image, Jump, Left, Mask, Passes, Seeds, Sizes, Steps, Top
from genlib.random import SeededNoise
from genlib.recipe import Recipe, Stage
from genlib.task import Phase, Task, action
from genlib.types import Batch, DataSpec, Metrics, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class InpaintingConfig(DDPMConfig):
    """A pixel diffusion that is told the mask and what is left of the picture."""

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Inpainting:
        return Inpainting(self, data)


class Inpainting(PixelDiffusion):
    """The task: pictures in, holed on the way; a filler out."""

    companions = replace(
        PixelDiffusion.companions,
        assess="genlib.models.diffusion.inpainting_assess:assess",
        sheet="genlib.models.diffusion.inpainting_assess:sheet",
    )

    def __init__(self, config: InpaintingConfig, data: DataSpec) -> None:
        super().__init__(config, data, more_channels=data.channels + 1)

    def network(self, batch: Batch) -> Network:
        mask = batch["mask"]
        known = torch.cat([mask, batch["image"] * (1 - mask)], 1)
        return lambda x, time: self.predict(torch.cat([x, known.to(x.dtype)], 1), time)

    def masked(self, batch: Batch, seed: int) -> Batch:
        """The batch with a mask (B, 1, H, W) for each picture, keyed by its position."""
        return {**batch, "mask": random_masks(batch["position"], *batch["image"].shape[2:], seed=seed)}

    def loss(self, phase: str, batch: Batch, step: Step) -> tuple[Tensor, Metrics]:
        return super().loss(phase, self.masked(batch, step.seed), step)

    def evaluate(self, batch: Batch) -> Metrics:
        return super().evaluate(self.masked(batch, 0))

    def of_no_class(self, x: Tensor, time: Tensor) -> Tensor:
        return self.network({"image": torch.zeros_like(x), "mask": torch.ones_like(x[:, :1])})(x, time)

    @action
    def generate(self, *, seed: Seeds, steps: Steps = 50, sampler: Sampler = "ddim") -> Image:
        """Pictures (len(seed), C, H, W) in [0, 1], each of its own seed, from nothing known."""
        return self.sample(self.of_no_class, seed, steps, sampler)

    @action
    def inpaint(self, *, image: Image, mask: Mask, seed: Seeds, steps: Steps = 50, sampler: Sampler = "ddim") -> Image:
        """Images (B, C, H, W) in [0, 1] filled where the mask (B, 1, H, W) is 1; the other pixels come back as they are. One seed an image."""
        image, mask = checked(self, image, mask, seed)
        filled = self.sample(self.network({"image": image * 2 - 1, "mask": mask}), seed, steps, sampler)
        return torch.where(mask > 0, filled, image)

    @action
    def outpaint(self, *, image: Image, seed: Seeds, top: Top = 0.5, left: Left = 0.5, steps: Steps = 50, sampler: Sampler = "ddim") -> Image:
        """Images (B, C, h, w) in [0, 1] continued to the model's size; `top` and `left` are shares of the new room above and to the left."""
        image, mask = canvas(self, image, top, left)
        return self.inpaint(image=image, mask=mask, seed=seed, steps=steps, sampler=sampler)


def checked(task: PixelDiffusion, image: Tensor, mask: Tensor, seed: list[int]) -> tuple[Tensor, Tensor]:
    """Both on the task's device, the mask (B, 1, H, W) of zeros and ones. ValueError where a shape does not fit the model."""
    if image.dim() != 4 or tuple(image.shape[1:]) != task.shape:
        raise ValueError(
            f"the images are {tuple(image.shape)}, but the model fills (B, {', '.join(map(str, task.shape))}); scale them, or use outpaint"
        )
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2:] != image.shape[2:] or mask.shape[0] not in (1, len(image)):
        raise ValueError(f"the mask is {tuple(mask.shape)}; for these images it must be ({len(image)}, 1, {image.shape[2]}, {image.shape[3]})")
    if len(seed) != len(image):
        raise ValueError(f"seed has {counted(len(seed), 'entry', 'entries')} for {counted(len(image), 'image')}; give one an image")
    return image.to(task.device, torch.float32), (mask >= 0.5).to(task.device, torch.float32).expand(len(image), -1, -1, -1)


def canvas(task: PixelDiffusion, image: Tensor, top: float, left: float) -> tuple[Tensor, Tensor]:
    """The crop (B, C, h, w) on an empty picture of the model's size, and the mask (1, 1, H, W) of what is around it."""
    channels, height, width = task.shape
    if image.dim() != 4 or image.shape[1] != channels or image.shape[2] > height or image.shape[3] > width:
        raise ValueError(
            f"the images are {tuple(image.shape)}; the model continues those of {counted(channels, 'channel')} and at most {height} x {width} pixels"
        )
    if not (0 <= top <= 1 and 0 <= left <= 1):
        raise ValueError(f"top {top:g} and left {left:g} must be between 0 and 1, the shares of the new room before the image")
    room = height - image.shape[2], width - image.shape[3]
    above, before = round(room[0] * top), round(room[1] * left)
    placed, keep = extend(image, before, above, room[1] - before, room[0] - above)
    return placed, (~keep).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class ResamplingConfig(TaskConfig):
    """Fills with a trained pixel diffusion, the stage it needs as `model`, without further training."""

    roles: ClassVar[tuple[str, ...]] = ("model",)

    fields: ClassVar[tuple[str, ...]] = ("image",)

    def build(self, data: DataSpec, upstream: Mapping[str, Task]) -> Resampling:
        model = upstream.get("model")
        if not isinstance(model, PixelDiffusion) or isinstance(model, Inpainting):
            raise ValueError("resampling fills with a pixel diffusion; give the stage that trains one as needs={'model': its name}")
        return Resampling(model)


class Resampling(Task):
    """The task: nothing to learn, pictures to fill."""

    phases: tuple[Phase, ...] = ()
    companions = Companions(
        assess="genlib.models.diffusion.inpainting_assess:assess_filling",
        sheet="genlib.models.diffusion.inpainting_assess:sheet",
        no_graphs="it fills in many steps of a sampler, and a graph is one pass through a network",
    )

    def __init__(self, model: PixelDiffusion) -> None:
        super().__init__({"model": model})

    @property
    def model(self) -> PixelDiffusion:
        """The frozen diffusion that fills."""
        found = self.upstream["model"]
        assert isinstance(found, PixelDiffusion)
        return found

    def sizes(self, data: DataSpec) -> Sizes:
        return self.model.sizes(data)

    def step_calls(self) -> Iterable[tuple[nn.Module, str]]:
        return self.model.step_calls()

    def preview(self, x0: Tensor) -> Tensor:
        return self.model.preview(x0)

    def transform(self, train: bool) -> PixelTransform:
        return self.model.transform(train)

    @action
    @torch.no_grad()
    def inpaint(self, *, image: Image, mask: Mask, seed: Seeds, steps: Steps = 50, jump: Jump = 5, passes: Passes = 4) -> Image:
        """Images (B, C, H, W) in [0, 1] filled where the mask (B, 1, H, W) is 1; the other pixels come back as they are. One seed an image.

        Every `jump` steps are walked `passes` times: more agree better with what is known, and take so much longer.
        """
        image, mask = checked(self.model, image, mask, seed)
        noise = SeededNoise(seed, self.model.shape, self.model.device)
        known, keep, grid = image * 2 - 1, mask == 0, trailing(self.model.schedule, steps)
        filled = inpaint(
            self.model.estimate(self.model.of_no_class), noise(), grid, image=known, keep=keep, noise=noise, jump=jump, passes=passes
        )  # fmt: skip
        return torch.where(keep, image, (filled / 2 + 0.5).clamp(0, 1))

    @action
    def outpaint(
        self, *, image: Image, seed: Seeds, top: Top = 0.5, left: Left = 0.5, steps: Steps = 50, jump: Jump = 5, passes: Passes = 4
    ) -> Image:
        """Images (B, C, h, w) in [0, 1] continued to the model's size; `top` and `left` are shares of the new room above and to the left."""
        image, mask = canvas(self.model, image, top, left)
        return self.inpaint(image=image, mask=mask, seed=seed, steps=steps, jump=jump, passes=passes)


def inpainting() -> Recipe:
    """Handwritten digits, 8 x 8 pixels, of which a part is missing: a network that is told the mask fills them.

    `python jobs/train.py inpainting`. One draw of what is hidden is 11.7 dB from the truth, the mean of what is known 7.3 dB, on held-out
    digits; known pixels come back unchanged (one process, 131 CPU-seconds).
    """
    task = InpaintingConfig(unet=PixelUNet(widths=(48, 96)), process=DiscreteConfig(beta_schedule="cosine", prediction="v"))
    stage = Stage(task=task, data=DataConfig(train="digits"), train=TrainConfig(steps=600, **SHORT))
    return Recipe(stages=(stage,), smoke=smoke(InpaintingConfig(unet=SMALL)))


def resampling() -> Recipe:
    """Coloured shapes filled by a diffusion that never saw a mask: known pixels are put back at each step (RePaint).

    `python jobs/train.py resampling`. Hidden pixels of held-out shapes at 14.2 dB, where the mean colour has 12.7; known ones stay as they are.
    """
    model = ddpm_unconditional().stages[0]
    fill = replace(model, name="fill", task=ResamplingConfig(), needs={"model": "model"}, train=TrainConfig())
    (small,) = smoke(DDPMConfig(unet=SMALL))
    small_fill = replace(small, name="fill", task=ResamplingConfig(), needs={"model": "model"}, train=TrainConfig())
    return Recipe(stages=(replace(model, name="model"), fill), smoke=(replace(small, name="model"), small_fill))
