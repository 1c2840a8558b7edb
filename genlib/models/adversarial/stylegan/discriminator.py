"""StyleGAN2's discriminator (Karras et al. 2020, arXiv:1912.04958): residual, with the standard deviation of groups of samples before its end.

Names of weights are those of the published discriminators.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from genlib.models.adversarial.base.epilogue import GROUP, Epilogue
from genlib.models.adversarial.base.equalized import EqualizedConv
from genlib.models.adversarial.base.resolutions import CLAMP, SMALLEST, channels_of, precision, sides
from genlib.models.adversarial.stylegan.mapping import Mapping

_LABEL_LAYERS = 8


class DiscriminatorBlock(nn.Module):
    """x (B, inputs, side, side) -> (B, outputs, side / 2, side / 2); the first one takes the image itself."""

    def __init__(self, image_channels: int, inputs: int, outputs: int, *, low: bool) -> None:
        super().__init__()
        clamp, self.low = CLAMP if low else None, low
        self.fromrgb = EqualizedConv(image_channels, inputs, 1, activation="lrelu", clamp=clamp) if image_channels else None
        self.conv0 = EqualizedConv(inputs, inputs, 3, activation="lrelu", clamp=clamp)
        self.conv1 = EqualizedConv(inputs, outputs, 3, activation="lrelu", down=2, gain=math.sqrt(0.5), clamp=clamp and clamp * math.sqrt(0.5))
        self.skip = EqualizedConv(inputs, outputs, 1, bias=False, down=2, gain=math.sqrt(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = x if self.low else x.float()  # behind a block that computes in bf16
        with precision(x.device.type, low=self.low):
            if self.fromrgb is not None:
                x = self.fromrgb(x)
            return self.skip(x) + self.conv1(self.conv0(x))


class StyleDiscriminator(nn.Module):
    """images (B, channels, side, side) in [-1, 1], of `classes` also one-hot labels (B, classes) -> logits (B, 1), high for data.

    low: how many of its largest resolutions compute in bf16. group: of the standard deviation; 1 is without.
    """

    def __init__(self, image_size: int, channels: int, base: int, most: int, *, classes: int = 0, low: int = 0, group: int = GROUP) -> None:
        super().__init__()
        width = partial(channels_of, base=base, most=most)
        self.sides = sides(image_size)[:0:-1]
        for side in self.sides:
            first = channels if side == image_size else 0
            self.add_module(f"b{side}", DiscriminatorBlock(first, width(side), width(side // 2), low=side * 2**low > image_size))
        last = width(SMALLEST)
        self.b4 = Epilogue(last, last if classes else 1, group)
        self.mapping = Mapping(0, last, _LABEL_LAYERS, classes) if classes else None

    def forward(self, image: Tensor, valid: Tensor | None = None, *labels: Tensor) -> Tensor:
        """See the class; `valid` (B,) bool tells which rows count in a group, None is all."""
        x = self.b4(self.blocks(image), valid)
        if self.mapping is None:
            return x.float()
        return (x * self.mapping(None, *labels)).sum(1, keepdim=True).float() / math.sqrt(x.shape[1])

    def blocks(self, image: Tensor) -> Tensor:
        """(B, C, side, side) -> (B, width, 4, 4) float32, each row by itself."""
        x = image
        for side in self.sides:
            x = self.get_submodule(f"b{side}")(x)
        return x.float()

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """What it sees in images before it decides, the mean over their places, (B, width)."""
        return self.blocks(image).mean((2, 3))
