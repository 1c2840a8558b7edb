"""StyleGAN's first synthesis network (Karras et al. 2019, arXiv:1812.04948): a constant goes through layers, each of which ends by taking its style.

A layer adds noise to its map, brings each channel of each image to mean 0 and deviation 1, and gives it the mean and deviation that the style says
(adaptive instance normalisation, section 2). No layer gets the noise from which styles are made. It grows as ProGAN does, in the paper from 8 x 8
pixels on. Weights are named as StyleGAN2's are; published ones are TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.models.adversarial.base.equalized import GAIN, SLOPE, TINY, EqualizedConv, EqualizedLinear
from genlib.models.adversarial.base.growing import Growth, doubled, faded
from genlib.models.adversarial.base.resolutions import channels_of, precision, sides
from genlib.models.adversarial.stylegan.synthesis2 import Noise


class AdaIN(nn.Module):
    """x (B, channels, H, W), w (B, style_dim) -> (B, channels, H, W) of means and deviations that w says, alike for all pixels."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style_dim, 2 * channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        scale, mean = self.style(w)
        x32 = x.float()
        x32 = x32 - x32.mean((2, 3), keepdim=True)
        x32 = x32 * (x32.square().mean((2, 3), keepdim=True) + TINY).rsqrt()
        return torch.addcmul(mean[:, :, None, None], x32, scale[:, :, None, None]).to(x.dtype)

    def style(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Deviation, which may be negative, and mean (B, channels) each; around 1 and 0 at first."""
        scale, mean = self.affine(w).float().chunk(2, 1)
        return 1 + scale, mean


class AdaptedLayer(nn.Module):
    """x (B, inputs, H, W), w (B, style_dim), a plane of noise -> (B, outputs, side, side), side twice H where it is `up`.

    Without inputs it has no convolution: x is (B, outputs, side, side).
    """

    noise_const: Tensor | None

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int, *, up: bool = False, noise: bool = True) -> None:
        super().__init__()
        self.conv = EqualizedConv(inputs, outputs, 3, up=2 if up else 1, bias=False, gain=GAIN) if inputs else None
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(outputs)) if noise else None
        self.register_buffer("noise_const", torch.randn(side, side) if noise else None)
        self.adain = AdaIN(outputs, style_dim)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """See the class; noise (B, 1, side, side) or (side, side), None is none."""
        x = x if self.conv is None else self.conv(x)
        if noise is not None and self.noise_strength is not None:
            x = x + (noise * self.noise_strength[:, None, None]).to(x.dtype)
        return self.adain(F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], SLOPE), w)


class AdaptedBlock(nn.Module):
    """One resolution, of two layers: the first one takes the constant at 4 pixels, else it doubles the map of the block before."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int, *, noise: bool, low: bool) -> None:
        super().__init__()
        self.side, self.low = side, low
        if inputs == 0:
            self.const = nn.Parameter(torch.ones(outputs, side, side))
        self.layer0 = AdaptedLayer(inputs, outputs, style_dim, side, up=inputs > 0, noise=noise)
        self.layer1 = AdaptedLayer(outputs, outputs, style_dim, side, noise=noise)

    def forward(self, x: Tensor | None, ws: Tensor, noises: Sequence[Tensor | None]) -> Tensor:
        """Features of the last block, styles (B, 2, style_dim), noise a layer -> features (B, outputs, side, side)."""
        with precision(ws.device.type, low=self.low):
            x = self.const.expand(ws.shape[0], -1, -1, -1) if x is None else x
            return self.layer1(self.layer0(x, ws[:, 0], noises[0]), ws[:, 1], noises[1])


class Synthesis1(nn.Module):
    """styles ws (B, num_ws, style_dim) -> images (B, channels, size, size) float32, of about [-1, 1], with as much detail as has grown by now.

    low: how many of its largest resolutions compute in bf16, whatever the others do. noise: whether its layers add any.
    """

    def __init__(
        self, growth: Growth, channels: int, style_dim: int, base: int, most: int, low: int = 0, *, noise: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        self.growth, self.style_dim, self.noise = growth, style_dim, noise
        self.sides, width, inputs = sides(growth.sides[-1]), partial(channels_of, base=base, most=most), 0
        self.low = {side for side in self.sides if side * 2**low > self.sides[-1]}
        for side in self.sides:
            self.add_module(f"b{side}", AdaptedBlock(inputs, width(side), style_dim, side, noise=noise, low=side in self.low))
            inputs = width(side)
        for side in growth.sides:
            self.add_module(f"torgb{side}", EqualizedConv(width(side), channels, 1))

    @property
    def blocks(self) -> list[AdaptedBlock]:
        """Those that draw by now, in their order."""
        newest = self.growth.place[0]
        return [self.get_submodule(f"b{side}") for side in self.sides if side <= newest]  # type: ignore[misc]

    @property
    def noise_sides(self) -> list[int]:
        """Pixels a side of each layer's noise."""
        return [block.side for block in self.blocks for _ in range(2)] if self.noise else []

    @property
    def num_ws(self) -> int:
        """Styles that an image takes: one a layer."""
        return 2 * len(self.blocks)

    def forward(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """See the class."""
        return self.growth.whole(self.drawn(ws, noise, *self.growth.place))

    def drawn(self, ws: Tensor, noise: Noise, side: int, share: float) -> Tensor:
        """Images (B, channels, side, side) of which the newest resolution has such a share."""
        maps: list[Tensor] = []
        for number, block in enumerate(self.get_submodule(f"b{one}") for one in self.sides if one <= side):
            at = slice(2 * number, 2 * number + 2)
            maps = [*maps[-1:], block(maps[-1] if maps else None, ws[:, at], self._planes(block, noise, at))]  # type: ignore[arg-type]
        image = self.image_of(maps[-1], side)
        return image if share == 1 else faded(doubled(self.image_of(maps[-2], side // 2)), image, share)

    def image_of(self, x: Tensor, side: int) -> Tensor:
        """(B, channels, side, side) float32 of that resolution's features."""
        with precision(x.device.type, low=side in self.low):
            return self.get_submodule(f"torgb{side}")(x).float()

    def _planes(self, block: AdaptedBlock, noise: Noise, at: slice) -> Sequence[Tensor | None]:
        if isinstance(noise, str):
            return [layer.noise_const if noise == "const" else None for layer in (block.layer0, block.layer1)]
        return noise[at] if self.noise else (None, None)
