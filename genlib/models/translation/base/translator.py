"""What translators of pictures have in common, whatever their networks and losses: sizes, held-out scores, and when a run is given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from genlib.companions import Companions
from genlib.config import Config, limited, tunable
from genlib.distributed import all_gather
from genlib.metrics.sliced_wasserstein import PATCH, patch_distance, sliced_wasserstein
from genlib.models.base.health import Health, diagnosis, spread
from genlib.models.translation.base.pictures import PictureConfig, TranslationTransform
from genlib.nn.patch_discriminator import PatchDiscriminator
from genlib.plurals import counted
from genlib.ports import Sizes
from genlib.task import Task
from genlib.types import Batch, DataSpec, Metrics

START_STD, START_WIDTH = 0.02, 64
"""Of the first weights, in the papers' code, and the width of its networks."""
FEW = 8
"""Pictures of fewer than these say nothing of how manifold they are; the papers' batches are of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches(Config):
    """A discriminator of patches."""

    width: int = limited(64, at_least=1)
    """Channels at half the size; each further halving doubles them, up to eightfold."""
    layers: int = tunable(3, low=1, high=3, at_least=1)
    """Halvings; 3 looks at patches of 70 pixels a side."""

    def check(self, side: int) -> None:
        """ValueError where no whole patch fits into a picture."""
        if side < (least := PatchDiscriminator.smallest_image(self.layers)):
            raise ValueError(f"image_size {side} is too small for a discriminator of {self.layers} halvings; take at least {least}, or fewer layers")

    def network(self, channels: int, *, affine: bool) -> PatchDiscriminator:
        """The discriminator, each channel of a picture normalised by itself, with weights of the normalisation's own or without."""
        return PatchDiscriminator(channels, self.width, self.layers, partial(nn.InstanceNorm2d, affine=affine))


def start_small(network: nn.Module, width: int) -> None:
    """Weights of convolutions from N(0, 0.02), biases 0; of another width than 64 such that what comes out of a layer has the same variance."""
    std = START_STD * (START_WIDTH / width) ** 0.5
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Translator(Task):
    """Base of the tasks. Batches are those of `TranslationTransform`."""

    companions = Companions(
        assess="genlib.models.translation.base.assess:assess",
        sheet="genlib.models.translation.base.assess:sheet",
        no_graphs="its noise is dropout that is drawn from a seed by whole numbers, which a graph does not hold",
        example="genlib.models.translation.base.translator:example",
    )
    two_sets = True
    """Whether pictures come from two sets without pairs."""
    progress: Tensor
    """(1,): share of the run that was done at the last step; the monitor judges no beginner."""

    def __init__(self, pictures: PictureConfig, health: Health, data: DataSpec) -> None:
        super().__init__()
        self.pictures, self.health, self.channels, self.side = pictures, health, data.channels, pictures.side(data)
        self.register_buffer("progress", torch.zeros(1))

    def transform(self, train: bool) -> TranslationTransform:
        return TranslationTransform(self.pictures, self.side, two_sets=self.two_sets, train=train)

    def sizes(self, data: DataSpec) -> Sizes:
        return Sizes(channels=self.channels, side=self.side)

    def divergence_reason(self, values: Mapping[str, float]) -> str:
        return diagnosis(values, self.health)

    def seen(self, image: Tensor, multiple: int = 0) -> Tensor:
        """Given pictures (B, C, H, W) in [0, 1] as networks see them. ValueError where their sides or channels do not fit."""
        channels, high, wide = image.shape[1:]
        fits = not (high % multiple or wide % multiple) and min(high, wide) >= 2 * multiple if multiple else high == wide == self.side
        if not fits or channels != self.channels:
            wanted = f"with sides that are multiples of {multiple}" if multiple else f"of {self.side}x{self.side} pixels"
            given = f"pictures of {counted(channels, 'channel')} and {wide}x{high} pixels are given"
            raise ValueError(f"{given}; this model takes {counted(self.channels, 'channel')}, {wanted}")
        return image.to(self.device) * 2 - 1

    def joint_evaluation(self, batch: Batch) -> Metrics:
        """How far translations are from real pictures, and how manifold beside these, beside what `evaluation_features` says of each row."""
        valid = all_gather(batch["valid"])
        pairs = [(all_gather(batch[f"{one}_real"])[valid], all_gather(batch[f"{one}_made"])[valid]) for one in ("a", "b") if f"{one}_made" in batch]
        values = {name: value for name, value in batch.items() if value.dim() == 1 and name not in ("position", "valid", "weight")}
        values["sliced_wasserstein"] = torch.stack([distance_of(real, made) for real, made in pairs]).mean()
        if len(pairs[0][0]) >= FEW:
            spreads = [spread(made.flatten(1)) / spread(real.flatten(1)).clamp(min=1e-12) for real, made in pairs]
            values["diversity"] = torch.stack(spreads).min()
        return {**values, "progress": self.progress[0]}


def shown(x: Tensor) -> Tensor:
    """What a network gives (B, C, H, W), as pictures in [0, 1]."""
    return (x.float() / 2 + 0.5).clamp(0, 1)


def distance_of(real: Tensor, made: Tensor) -> Tensor:
    """Sliced Wasserstein distance of pictures (N, C, H, W), by patches where one fits; a scalar."""
    return patch_distance(real, made) if min(real.shape[-2:]) >= PATCH else sliced_wasserstein(real.flatten(1), made.flatten(1))


def absolute(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference of each row, (B, ...) -> (B,)."""
    return (one.float() - other.float()).abs().flatten(1).mean(1)


def decibels(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each row in dB, of pictures (B, C, H, W) in [0, 1] -> (B,); at most 100."""
    return -10 * torch.log10((one.float() - other.float()).square().flatten(1).mean(1).clamp(min=1e-10))


def example(task: Translator, size: int) -> Batch:
    """See `Companions.example`."""
    return {name: 2 * torch.rand(size, task.channels, task.side, task.side) - 1 for name in ("a", "b")}
