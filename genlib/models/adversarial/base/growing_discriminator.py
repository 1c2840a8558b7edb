"""The discriminator of ProGAN and StyleGAN 1 (Karras et al. 2018, arXiv:1710.10196, table 2): a block a resolution, from the newest to 4 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from genlib.functional.resampling import BOX
from genlib.models.adversarial.base.epilogue import GROUP, Epilogue
from genlib.models.adversarial.base.equalized import EqualizedConv
from genlib.models.adversarial.base.growing import Growth, faded
from genlib.models.adversarial.base.resolutions import SMALLEST, channels_of, precision, sides


class HalvingBlock(nn.Module):
    """x (B, inputs, side, side) -> (B, outputs, side / 2, side / 2)."""

    def __init__(self, inputs: int, outputs: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.conv0 = EqualizedConv(inputs, inputs, 3, activation="lrelu")
        self.conv1 = EqualizedConv(inputs, outputs, 3, activation="lrelu", down=2, taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv1(self.conv0(x))


class GrowingDiscriminator(nn.Module):
    """images (B, channels, size, size) in [-1, 1], of `classes` also one-hot labels (B, classes) -> logits (B, 1), high for data.

    It sees as much detail as has grown by now. taps: of the filter that halves maps. low: how many of its largest resolutions compute in bf16.
    group: of the standard deviation; 1 is without.
    """

    def __init__(
        self, growth: Growth, channels: int, base: int, most: int, *,
        taps: Sequence[float] = BOX, classes: int = 0, low: int = 0, group: int = GROUP,
    ) -> None:  # fmt: skip
        super().__init__()
        self.growth, width = growth, partial(channels_of, base=base, most=most)
        full = growth.sides[-1]
        self.low = {side for side in growth.sides if side * 2**low > full}
        for side in growth.sides:
            self.add_module(f"fromrgb{side}", EqualizedConv(channels, width(side), 1, activation="lrelu"))
        self.halvings = sides(full)[:0:-1]
        for side in self.halvings:
            self.add_module(f"b{side}", HalvingBlock(width(side), width(side // 2), taps))
        self.b4 = Epilogue(width(SMALLEST), classes or 1, group)

    def forward(self, image: Tensor, valid: Tensor | None = None, *labels: Tensor) -> Tensor:
        """See the class; `valid` (B,) bool tells which rows count in a group, None is all."""
        scores = self.b4(self.blocks(image), valid).float()
        return (scores * labels[0]).sum(1, keepdim=True) if labels else scores

    def blocks(self, image: Tensor) -> Tensor:
        """(B, C, size, size) -> (B, width, 4, 4) float32, each row by itself."""
        return self.seen(image, *self.growth.place)

    def seen(self, image: Tensor, side: int, share: float) -> Tensor:
        """The same of networks whose newest resolution has so many pixels a side and such a share."""
        image = self.growth.reduced(image, side)
        x = self.taken(image, side)
        for at in (at for at in self.halvings if at <= side):
            x = self.halved(x, at)
            if at == side and share < 1:
                x = faded(self.taken(self.growth.reduced(image, side // 2), side // 2), x, share)
        return x.float()

    def taken(self, image: Tensor, side: int) -> Tensor:
        """Features of an image of that size."""
        with precision(image.device.type, low=side in self.low):
            return self.get_submodule(f"fromrgb{side}")(image)

    def halved(self, x: Tensor, side: int) -> Tensor:
        """Those of half the size."""
        x = x if side in self.low else x.float()  # behind a block that computes in bf16
        with precision(x.device.type, low=side in self.low):
            return self.get_submodule(f"b{side}")(x)

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """What it sees in images before it decides, the mean over their places, (B, width)."""
        return self.blocks(image).mean((2, 3))
