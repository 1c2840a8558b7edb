"""Convolutions before a normalisation that takes the mean of each channel away, and has no weights of its own.

There a bias changes nothing, and its gradient is zero but for rounding, which Adam would turn into steps of full size. Published networks
have it all the same: here it is a weight with a gradient of exactly zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CentredConv(nn.Conv2d):
    """(B, in, H, W) -> (B, out, H', W'), without the bias."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        assert self.bias is not None
        return F.conv2d(input, self.weight + 0 * self.bias[:, None, None, None], None, self.stride, self.padding)


class CentredConvTranspose(nn.ConvTranspose2d):
    """(B, in, H, W) -> (B, out, H', W'), without the bias."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See the class."""
        assert self.bias is not None
        assert not isinstance(self.padding, str)
        return F.conv_transpose2d(input, self.weight + 0 * self.bias[None, :, None, None], None, self.stride, self.padding, self.output_padding)
