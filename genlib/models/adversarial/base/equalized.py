"""Layers with an equalised learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1).

Weights start at N(0, 1) and are scaled where they are used, so that an optimizer that scales its steps by the gradient, as Adam does, moves
all of them at one rate, however many inputs a layer has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlib.functional.resampling import BINOMIAL, conv_downsampled, conv_upsampled, low_pass

SLOPE, GAIN = 0.2, math.sqrt(2)
"""Of LeakyReLU below zero; what keeps a signal's strength behind it."""
TINY = 1e-8
"""Added to the square of a length."""
Activation = Literal["linear", "lrelu"]


def pixel_norm(x: Tensor) -> Tensor:
    """(B, C, ...) scaled to a mean square of 1 over the channels of each pixel, or the numbers of each row (section 4.2)."""
    return x * (x.float().square().mean(1, keepdim=True) + TINY).rsqrt().to(x.dtype)


def activated(x: Tensor, clamp: float | None = None) -> Tensor:
    """LeakyReLU of a tensor that nobody else needs; its gain is the caller's, who has multiplied x by it. At most `clamp` in size."""
    x = F.leaky_relu(x, SLOPE)
    return x if clamp is None else x.clamp(-clamp, clamp)


class EqualizedLinear(nn.Module):
    """(B, inputs) -> (B, outputs), followed by `activation`.

    learning_rate: how fast it learns, as a factor; both its weights and biases are scaled by it. bias: where biases start; None has none.
    """

    def __init__(
        self, inputs: int, outputs: int, *, activation: Activation = "linear", learning_rate: float = 1.0, bias: float | None = 0.0
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_rate)
        self.bias = None if bias is None else nn.Parameter(torch.full((outputs,), bias / learning_rate))
        self.activation, self.gain = activation, GAIN if activation == "lrelu" else 1.0
        self.weight_gain, self.bias_gain = learning_rate / math.sqrt(inputs), learning_rate

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        bias = None if self.bias is None else self.bias * (self.bias_gain * self.gain)
        x = F.linear(x, self.weight * (self.weight_gain * self.gain), bias)
        return activated(x) if self.activation == "lrelu" else x


class EqualizedConv(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H', W'), `up` times larger (1 or 2) or `down` times smaller (1 or 2), followed by `activation`.

    taps: of the filter that changes the size, along each axis. gain: factor of what comes out. clamp: its largest size; None has none.
    """

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, activation: Activation = "linear", up: int = 1, down: int = 1,
        taps: Sequence[float] = BINOMIAL, bias: bool = True, gain: float = 1.0, clamp: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.activation, self.up, self.down, self.clamp = activation, up, down, clamp
        self.gain = gain * (GAIN if activation == "lrelu" else 1.0)
        self.weight_gain = 1 / math.sqrt(inputs * kernel**2)
        self.register_buffer("resample_filter", low_pass(taps))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.convolved(x, self.weight * (self.weight_gain * self.gain), None if self.bias is None else self.bias * self.gain)
        if self.activation == "lrelu":
            return activated(x, self.clamp)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Linear, in its new size."""
        if self.up == 2:
            x = conv_upsampled(x, weight, self.resample_filter)
            return x if bias is None else x + bias.to(x.dtype).view(1, -1, 1, 1)
        if self.down == 2:
            return conv_downsampled(x, weight, bias, self.resample_filter)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
