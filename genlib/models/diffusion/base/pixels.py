"""What families that draw pictures in pixels share: their U-Net, how pictures reach it, and a task around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genlib import random
from genlib.companions import Companions
from genlib.config import Config, limited
from genlib.data.transforms.plain import PlainTransform
from genlib.models.base.components import adopt_component
from genlib.task import Task
from genlib.types import Batch, DataSpec, Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelUNet(Config):
    """The U-Net of Ho et al. 2020 (arXiv:2006.11239), diffusers' UNet2DModel; each level after the first halves the picture."""

    widths: tuple[int, ...] = (32, 64, 64)
    """Channels of each level, from the full resolution down."""
    layers: int = limited(1, at_least=1)
    """Residual blocks a level."""
    attention: tuple[int, ...] = ()
    """Levels with self-attention, 0 being the full resolution; the middle has it always."""
    head_dim: int = limited(0, at_least=0)
    """Channels of an attention head; 0 is one head."""
    norm_groups: int = limited(8, at_least=1)
    """Groups of every normalisation."""
    dropout: float = limited(0.0, at_least=0, below=1)
    """Share of features dropped inside residual blocks."""

    def validate(self) -> None:
        if not self.widths or any(width < 1 or width % self.norm_groups for width in self.widths):
            raise ValueError(f"unet.widths {self.widths} must be multiples of unet.norm_groups, {self.norm_groups}; change one of the two")
        if any(not 0 <= level < len(self.widths) for level in self.attention):
            raise ValueError(
                f"unet.attention {self.attention} names a level that is not among 0 to {len(self.widths) - 1}; name levels of unet.widths"
            )
        if any(width % (self.head_dim or width) for width in self.widths):
            raise ValueError(f"unet.widths {self.widths} must be multiples of unet.head_dim, {self.head_dim}; 0 takes one head")

    def build(self, image_size: int, in_channels: int, out_channels: int, num_classes: int = 0) -> Any:
        """UNet2DModel for images (B, in_channels, image_size, image_size); `num_classes` counts the label that stands for none."""
        from diffusers.models.unets.unet_2d import UNet2DModel

        factor = 2 ** (len(self.widths) - 1)
        if image_size % factor:
            fitting = max(1, round(image_size / factor)) * factor
            raise ValueError(
                f"images of {image_size} px cannot be halved {len(self.widths) - 1} times; give --data.image-size {fitting}, or fewer unet.widths"
            )
        kinds = ["Attn" if level in self.attention else "" for level in range(len(self.widths))]
        settings: dict[str, Any] = {"num_class_embeds": num_classes} if num_classes else {}
        net = UNet2DModel(
            sample_size=image_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=self.widths,
            layers_per_block=self.layers,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            attention_head_dim=self.head_dim or None,
            norm_num_groups=self.norm_groups,
            norm_eps=1e-6,
            dropout=self.dropout,
            flip_sin_to_cos=False,
            freq_shift=1,
            downsample_padding=0,
            **settings,
        )
        nn.init.zeros_(net.conv_out.weight)  # as Ho et al.: the first prediction is zero
        return net


class PixelTransform:
    """Decoded samples to `image` (B, C, size, size) in [-1, 1] and, where there are any, `label` (B,)."""

    def __init__(self, image_size: int, flip: bool) -> None:
        self.image_size, self.flip, self.plain = image_size, flip, PlainTransform(image_size)
        self.fields = ("image", "label", "json")

    def __call__(self, samples: Samples) -> Batch:
        batch = self.plain(samples)
        image = batch["image"] * 2 - 1
        if self.flip:
            mirrored = random.uniform(torch.from_numpy(samples.position), seed=samples.seed, stream="flip") < 0.5
            image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)
        return {"image": image, **({"label": batch["label"]} if "label" in batch else {})}


def check_one_size(data: DataSpec) -> None:
    """ValueError where the data has no pictures of one size."""
    if not data.image_size:
        raise ValueError(
            "a pixel diffusion draws pictures of one size, and the data has none; give the size of its pictures, for example --data.image-size 32, "
            "or a set such as digits"
        )


class PixelTask(Task):
    """A U-Net on pictures of one size in [-1, 1], under `net`."""

    companions = Companions(
        no_graphs="it draws in many steps of a sampler, and a graph is one pass through a network; take its diffusers folder where it has one",
        load_pretrained="genlib.models.diffusion.base.pixels:load_pretrained",
        example="genlib.models.diffusion.base.pixels:example",
    )

    def __init__(
        self, unet: PixelUNet, data: DataSpec, *, flip: bool, more_channels: int = 0, num_classes: int = 0, upstream: Mapping[str, Task] | None = None
    ) -> None:
        super().__init__(upstream)
        check_one_size(data)
        self.unet, self.data, self.flip, self.more_channels, self.num_classes = unet, data, flip, more_channels, num_classes
        self.net = self.fresh_network()

    def fresh_network(self) -> Any:
        """A fresh network."""
        channels = self.data.channels
        return self.unet.build(self.data.image_size, channels + self.more_channels, channels, self.num_classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture: (C, H, W)."""
        return self.data.channels, self.data.image_size, self.data.image_size

    def predict(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """What the network says of x (B, C, H, W) at time (B,), with labels (B,) if it was made with classes."""
        return self.net(x, time, label, return_dict=False)[0]

    def step_calls(self) -> Iterable[tuple[nn.Module, str]]:
        return ((self.net, "forward"),)

    def preview(self, x0: Tensor) -> Tensor:
        return x0 / 2 + 0.5

    def transform(self, train: bool) -> PixelTransform:
        return PixelTransform(self.data.image_size, train and self.flip)


def example(task: PixelTask, size: int) -> Batch:
    """See `Companions.example`."""
    return {"image": torch.rand(size, *task.shape) * 2 - 1}


def load_pretrained(task: PixelTask, folder: Path) -> None:
    """A diffusers pipeline folder, or its `unet` alone."""
    adopt_component(task.net, folder / "unet" if (folder / "unet").is_dir() else folder)
