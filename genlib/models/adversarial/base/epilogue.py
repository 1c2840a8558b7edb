"""The end of a discriminator, at 4 pixels (Karras et al. 2018, arXiv:1710.10196, table 2), where it is told how unlike samples are."""

from __future__ import annotations

from torch import Tensor, nn

from genlib.models.adversarial.base.equalized import EqualizedConv, EqualizedLinear
from genlib.models.adversarial.base.resolutions import SMALLEST
from genlib.nn.minibatch_stddev import with_group_stddev

GROUP = 4
"""Samples whose standard deviation each of them is told."""


class Epilogue(nn.Module):
    """x (B, channels, 4, 4) -> (B, outputs)."""

    def __init__(self, channels: int, outputs: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.conv = EqualizedConv(channels + (group > 1), channels, 3, activation="lrelu")
        self.fc = EqualizedLinear(channels * SMALLEST**2, channels, activation="lrelu")
        self.out = EqualizedLinear(channels, outputs)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """See the class."""
        return self.out(self.features(x, valid))

    def features(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """What its last layer is given, (B, channels)."""
        x = with_group_stddev(x, valid, self.group) if self.group > 1 else x
        return self.fc(self.conv(x).flatten(1))
