"""Images to twice or half their size through a small low-pass filter, alone or in one with a convolution, zeros beyond their edges.

Of one form for each: a transposed or strided convolution, and the filter as a depthwise one, both of which are differentiable as often as asked.
Filters have an even number of taps along each axis: two, or four.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
"""The filter of StyleGAN 1 and 2, along each axis (Karras et al. 2020, arXiv:1912.04958)."""
BOX = (1.0, 1.0)
"""That of the nearest pixel and of the mean of two: ProGAN's (Karras et al. 2018, arXiv:1710.10196)."""


def low_pass(taps: Sequence[float] = BINOMIAL) -> Tensor:
    """A separable filter (K, K) with the sum 1."""
    line = torch.tensor(taps)
    plane = torch.outer(line, line)
    return plane / plane.sum()


def filtered(x: Tensor, kernel: Tensor, padding: int, stride: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'): each channel through a symmetric kernel (K, K), at every pixel or every second."""
    channels = x.shape[1]
    return F.conv2d(x, kernel.to(x.dtype).expand(channels, 1, -1, -1), padding=padding, stride=stride, groups=channels)


def upsampled(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
    channels = x.shape[1]
    return F.conv_transpose2d(x, (4 * kernel).to(x.dtype).expand(channels, 1, -1, -1), stride=2, padding=_half(kernel) - 1, groups=channels)


def downsampled(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
    return filtered(x, kernel, padding=_half(kernel) - 1, stride=2)


def _half(kernel: Tensor) -> int:
    """Half of its taps along an axis."""
    return kernel.shape[-1] // 2


def conv_upsampled(x: Tensor, weight: Tensor, kernel: Tensor, groups: int = 1) -> Tensor:
    """A convolution (out, in, 3, 3) of x (B, in, H, W) spread to twice its size, then the filter: (B, out, 2 H, 2 W).

    Of `groups`, x (B, groups * in, H, W) and the weights (groups * out, in, 3, 3) are as many convolutions.
    """
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    turned = weight.view(groups, outputs, inputs, 3, 3).transpose(1, 2).reshape(groups * inputs, outputs, 3, 3)
    return filtered(F.conv_transpose2d(x, turned, stride=2, groups=groups), 4 * kernel, padding=_half(kernel) - 1)


def conv_downsampled(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor) -> Tensor:
    """The filter, then a strided convolution (out, in, k, k), k 1 or 3, of x (B, in, H, W): (B, out, H / 2, W / 2)."""
    if weight.shape[-1] == 1:
        return F.conv2d(downsampled(x, kernel), weight, bias)
    return F.conv2d(filtered(x, kernel, padding=_half(kernel)), weight, bias, stride=2)
