"""StyleGAN2's synthesis network (Karras et al. 2020, arXiv:1912.04958): a style sets the size of each layer's inputs, and its weights are
demodulated in place of a normalisation. Names of weights are those of the published generators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.functional.resampling import conv_upsampled, low_pass, upsampled
from genlib.models.adversarial.base.equalized import GAIN, EqualizedLinear, activated
from genlib.models.adversarial.base.resolutions import CLAMP, SMALLEST, channels_of, precision, sides

TINY = 1e-8
"""Added to the square of a length."""
_FEW_CHANNELS, _MANY_PIXELS = 32, 32
"""Up to and from which convolutions run faster with weights of each sample's own than with its inputs scaled."""

Noise = Literal["const", "none"] | Sequence[Tensor]
"""What is added at every layer: what it keeps, nothing, or a plane (B, 1, side, side) a layer."""


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor, kernel: Tensor | None, *, gain: float, demodulate: bool) -> Tensor:
    """A convolution (out, in, k, k) of x (B, in, H, W) with inputs scaled by style (B, in): (B, out, H', W') times gain.

    Demodulated, what comes out of inputs of unit variance has unit variance before the gain. kernel: of an upsampling by 2, None is none.
    Either the inputs are scaled or each sample has weights of its own, whichever is faster for the shape; both are the same but for rounding.
    A graph for any size of batch holds no groups by sample, so there the inputs are scaled.
    """
    if not torch.compiler.is_exporting() and weight.shape[1] <= _FEW_CHANNELS and x.shape[-1] * (1 if kernel is None else 2) >= _MANY_PIXELS:
        return _own_weights(x, weight, style, kernel, gain, demodulate)
    factor = _demodulation(weight, style) * gain if demodulate else gain
    if not demodulate:
        weight = weight * gain
    x = x * style.to(x.dtype)[:, :, None, None]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2) if kernel is None else conv_upsampled(x, weight, kernel)
    return x * factor.to(x.dtype)[:, :, None, None] if isinstance(factor, Tensor) else x


def _demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """One over the lengths (B, out) of each sample's weights."""
    return (style.float().square() @ weight.float().square().sum((2, 3)).T + TINY).rsqrt()


def _own_weights(x: Tensor, weight: Tensor, style: Tensor, kernel: Tensor | None, gain: float, demodulate: bool) -> Tensor:
    rows, inputs, *side = x.shape
    own = weight * (style * gain)[:, None, :, None, None]  # (B, out, in, k, k)
    if demodulate:
        own = own * _demodulation(weight, style)[:, :, None, None, None]
    own = own.flatten(0, 1)
    x = x.reshape(1, rows * inputs, *side)
    x = F.conv2d(x, own, padding=weight.shape[-1] // 2, groups=rows) if kernel is None else conv_upsampled(x, own, kernel, groups=rows)
    return x.view(rows, -1, *x.shape[2:])


class StyledConv(nn.Module):
    """x (B, inputs, H, W), w (B, style_dim), a plane of noise -> (B, outputs, side, side), side twice H where it is `up`."""

    resample_filter: Tensor
    noise_const: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, style_dim: int, side: int, *, up: bool, noise: bool = True, clamp: float | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # one entry, where published files have none: DeepSpeed breaks on none
        self.noise_strength = nn.Parameter(torch.zeros(1)) if noise else None
        self.register_buffer("noise_const", torch.randn(side, side) if noise else None)
        self.register_buffer("resample_filter", low_pass())

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """See the class; noise (B, 1, side, side) or (side, side), None is none."""
        kernel = self.resample_filter if self.up else None
        x = modulated_conv(x, self.weight, self.affine(w), kernel, gain=GAIN, demodulate=True)
        # LeakyReLU's gain is in the weights, for which bias and noise have it, too
        x = x + (self.bias * GAIN).to(x.dtype).view(1, -1, 1, 1)
        if noise is not None and self.noise_strength is not None:
            x = x + (noise * (self.noise_strength * GAIN)).to(x.dtype)
        return activated(x, self.clamp)


class ToImage(nn.Module):
    """x (B, inputs, side, side), w (B, style_dim) -> what a block adds to the image, (B, channels, side, side)."""

    def __init__(self, inputs: int, channels: int, style_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp, self.style_gain = clamp, 1 / math.sqrt(inputs)
        self.affine = EqualizedLinear(style_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """See the class."""
        x = modulated_conv(x, self.weight, self.affine(w), None, gain=self.style_gain, demodulate=False)
        x = x + self.bias.to(x.dtype).view(1, -1, 1, 1)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution: one convolution at 4 pixels, else one that upsamples and one that does not; then its part of the image."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, side: int, channels: int, *, noise: bool, low: bool) -> None:
        super().__init__()
        self.side, self.low = side, low
        self.first, clamp = inputs == 0, CLAMP if low else None
        if self.first:
            self.const = nn.Parameter(torch.randn(outputs, side, side))
        else:
            self.conv0 = StyledConv(inputs, outputs, style_dim, side, up=True, noise=noise, clamp=clamp)
        self.conv1 = StyledConv(outputs, outputs, style_dim, side, up=False, noise=noise, clamp=clamp)
        self.torgb = ToImage(outputs, channels, style_dim, clamp)
        self.register_buffer("resample_filter", low_pass())
        self.convolutions = 1 if self.first else 2

    def forward(self, x: Tensor | None, image: Tensor | None, ws: Tensor, noises: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Features and image of the last block, styles (B, convolutions + 1, style_dim), noise a convolution -> those of this one."""
        styles, noise = iter(ws.unbind(1)), iter(noises)
        with precision(ws.device.type, low=self.low):
            x = self.const.expand(ws.shape[0], -1, -1, -1) if x is None else self.conv0(x, next(styles), next(noise))
            x = self.conv1(x, next(styles), next(noise))
            part = self.torgb(x, next(styles)).float()
        return x, part if image is None else upsampled(image, self.resample_filter) + part  # type: ignore[arg-type]


class Synthesis2(nn.Module):
    """styles ws (B, num_ws, style_dim) -> images (B, channels, image_size, image_size) float32, of about [-1, 1].

    low: how many of its largest resolutions compute in bf16, whatever the others do. noise: whether its layers add any.
    """

    def __init__(
        self, image_size: int, channels: int, style_dim: int, base: int, most: int, low: int = 0, *, noise: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        self.sides, self.style_dim = sides(image_size), style_dim
        width, inputs = partial(channels_of, base=base, most=most), 0
        for side in self.sides:
            self.add_module(f"b{side}", Block(inputs, width(side), style_dim, side, channels, noise=noise, low=side * 2**low > image_size))
            inputs = width(side)
        layers = [side for side in self.sides for _ in range(1 if side == SMALLEST else 2)]
        self.noise_sides = layers if noise else []
        """Pixels a side of each layer's noise."""
        self.num_ws = len(layers) + 1
        """Styles that an image takes: one a convolution, and one for the last block's image."""

    @property
    def blocks(self) -> list[Block]:
        """In their order."""
        return [self.get_submodule(f"b{side}") for side in self.sides]  # type: ignore[misc]

    def forward(self, ws: Tensor, noise: Noise = "const") -> Tensor:
        """See the class."""
        x = image = None
        at = 0
        for block in self.blocks:
            end = at + block.convolutions
            x, image = block(x, image, ws[:, at : end + 1], self._planes(block, noise, at, end))
            at = end
        assert image is not None, "there are two blocks at least"
        return image

    def _planes(self, block: Block, noise: Noise, at: int, end: int) -> Sequence[Tensor | None]:
        if isinstance(noise, str):
            layers = [block.conv1] if block.first else [block.conv0, block.conv1]
            return [layer.noise_const if noise == "const" else None for layer in layers]
        return noise[at:end] if self.noise_sides else [None] * (end - at)
